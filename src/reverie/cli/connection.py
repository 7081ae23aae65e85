"""A server as the terminal's verbs call it: requests out, JSON or pieces of an answer in."""

from __future__ import annotations

import http.client
import os
import re
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec
import typer
from msgspec import Struct

from reverie.backends.decoding.sse import ProtocolError, SSEParser, field_of

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "REVERIE_URL"
KEY_VARIABLE = "REVERIE_API_KEY"
ADMIN_KEY_VARIABLE = "REVERIE_ADMIN_KEY"

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar=URL_VARIABLE,
        metavar="URL",
        help=f"The server to ask [{DEFAULT_URL}]. Its key is read from {KEY_VARIABLE}.",
    ),
]

_CONNECT_TIMEOUT = 10.0
_READ_TIMEOUT = 960.0
"""Longer than a server lets one request take by default, which then says so itself."""
_CANCEL_TIMEOUT = 2.0
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that is gone, or a network that was changed, is found out within 35 s."""
_PATIENCE = 180.0
_PASSING = frozenset({"overloaded", "model_loading", "request_in_progress"})
_CHAT = "/v1/chat/completions"
_NUMBER = re.compile(rb"[0-9]{1,18}")
_READ_BYTES = 64 * 1024
_MAX_BODY = 64 * 1024 * 1024
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class CallFailed(Exception):
    """The server refuses, fails, or can't be reached. The message is a sentence for the user."""


class Lost(CallFailed):
    """The connection broke, or the answer ended too early. The server may have gone on with it."""


class Unreachable(Lost):
    """Nobody listens there."""


class Refused(CallFailed):
    """The server's error, before an answer or within it.

    Args:
        status: 0 within an answer.
        retry_after: seconds, if the server names them.
    """

    def __init__(
        self, sentence: str, *, status: int = 0, code: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """True if the same request may succeed a little later."""
        return self.code in _PASSING or self.status in (502, 503, 504)


class Piece(Struct, frozen=True):
    """What one event of an answer brings. All parts may be empty."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    id: int | None = None
    """The event's number, with which an answer is gone on with."""
    begins_anew: bool = False
    """All that came before is void."""


def without_controls(text: str) -> str:
    """``text`` without control characters, which a terminal would obey; lines and tabs stay."""
    return text.translate(_CONTROLS)


def key_from(variable: str = KEY_VARIABLE) -> str | None:
    """The key in this environment variable.

    Raises:
        CallFailed: it can't be sent in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise CallFailed(f"{variable} has characters that a key can't have")
    return key or None


class Connection:
    """A server, and the key that is shown to it. Each call has a connection of its own.

    Args:
        url: with or without a ``/v1`` at its end.
        patience: seconds for which an answer that was begun waits for a server that is away.
        given_as: where the URL stands on the command line, for errors.

    Raises:
        typer.BadParameter: the URL can't be used.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        patience: float = _PATIENCE,
        given_as: str = "--url",
    ) -> None:
        self.patience = patience
        self._parts = _parts_of(url, given_as)
        self._key = key
        self.url = url.rstrip("/").removesuffix("/v1")

    def accepts(self) -> bool:
        """True if something listens there."""
        try:
            address = (self._parts.hostname or "", self._port)
            socket.create_connection(address, _CONNECT_TIMEOUT).close()
        except OSError:
            return False
        return True

    def get(self, path: str, *, key: str | None = None) -> tuple[int, bytes]:
        """GET; give the status and the body.

        Args:
            key: instead of the connection's own.

        Raises:
            CallFailed: no answer came.
        """
        with self._answer("GET", path, key=key) as response:
            return response.status, response.read(_MAX_BODY)

    def get_json(self, path: str, *, key: str | None = None, also: int = 200) -> Any:
        """The JSON that is there.

        Args:
            also: another status than 200 that isn't a refusal.

        Raises:
            CallFailed: there is none, or the server refuses it.
        """
        with self._answer("GET", path, key=key) as response:
            body = response.read(_MAX_BODY)
            if response.status not in (200, also):
                raise self._refused(response, body)
        return self.parsed(body)

    def post_json(self, path: str) -> Any:
        """What an empty POST is answered with.

        Raises:
            CallFailed: it is refused.
        """
        with self._answer("POST", path) as response:
            return self._whole(response)

    def ask(self, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """The whole answer to a request for a chat completion.

        Raises:
            CallFailed: there is none.
        """
        with self._answer("POST", _CHAT, body, headers=headers) as response:
            return self._whole(response)

    def cancel(self, body: dict[str, Any], headers: Mapping[str, str]) -> None:
        """End the answer that this body and these headers asked for. Waits for it shortly.

        Raises:
            CallFailed
        """
        path = f"{_CHAT}/cancel"
        with self._answer("POST", path, body, headers=headers, timeout=_CANCEL_TIMEOUT) as response:
            self._whole(response)

    def stream(
        self, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> Generator[Piece, None, None]:
        """The pieces of an answer, as they come. Closing the generator ends the connection.

        Raises:
            CallFailed: there is no answer, or it broke off.
        """
        with self._answer("POST", _CHAT, streamed(body), headers=headers) as response:
            if response.status != 200:
                raise self._refused(response, response.read(_MAX_BODY))
            if response.headers.get_content_type() != "text/event-stream":
                raise self.unknown()  # not a stream that was cut: asking again wouldn't help
            parser = SSEParser()
            while data := response.read1(_READ_BYTES):
                for event in self._events(parser, data):
                    payload = field_of(event, b"data")
                    if payload is None:
                        continue
                    if payload.strip() == b"[DONE]":
                        return
                    yield self._piece(payload, field_of(event, b"id"))
        raise Lost(f"The answer broke off: {self.url} ended it before it was complete.")

    def _whole(self, response: http.client.HTTPResponse) -> Any:
        answer = response.read(_MAX_BODY)
        if response.status != 200:
            raise self._refused(response, answer)
        return self.parsed(answer)

    def parsed(self, body: bytes) -> Any:
        """The JSON of an answer.

        Raises:
            CallFailed: it is none.
        """
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise self.unknown() from error

    @property
    def _port(self) -> int:
        return self._parts.port or (443 if self._parts.scheme == "https" else 80)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Generator[http.client.HTTPResponse, None, None]:
        """The response to a request. Whatever breaks while it is read is translated, too."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(
            self._parts.hostname or "", self._port, timeout=timeout or _CONNECT_TIMEOUT
        )
        sent = {"Accept": "*/*", "Content-Type": "application/json", **(headers or {})}
        if key := key or self._key:
            sent["Authorization"] = f"Bearer {key}"
        try:
            try:
                connection.connect()
            except OSError as error:
                raise self._unreachable(error) from error
            connection.sock.settimeout(timeout or _READ_TIMEOUT)
            _keep_alive(connection.sock)
            payload = None if body is None else _encoded(body)
            base = self._parts.path.rstrip("/").removesuffix("/v1")
            connection.request(method, base + path, payload, sent)
            yield connection.getresponse()
        except TimeoutError as error:
            raise Lost(f"{self.url} fell silent.") from error
        except http.client.BadStatusLine as error:
            if isinstance(error, http.client.RemoteDisconnected):
                raise Lost(f"The connection to {self.url} broke.") from error
            raise self.unknown() from error
        except (http.client.HTTPException, OSError) as error:
            raise Lost(f"The connection to {self.url} broke.") from error
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> Unreachable:
        reason = "it doesn't answer in time" if isinstance(error, TimeoutError) else error.strerror
        return Unreachable(f"No server answers at {self.url} ({reason or error}).")

    def _events(self, parser: SSEParser, data: bytes) -> list[bytes]:
        try:
            return parser.feed_events(data)
        except ProtocolError as error:
            raise self.unknown() from error

    def _piece(self, payload: bytes, id: bytes | None) -> Piece:
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except msgspec.MsgspecError as error:
            raise self.unknown() from error
        if chunk.error is not None:
            raise Refused(
                _sentence(chunk.error) or "The answer broke off.", code=_code(chunk.error)
            )
        choice = chunk.choices[0] if chunk.choices else _Choice()
        delta = choice.delta
        return Piece(
            delta.content or "",
            delta.reasoning_content or "",
            choice.finish_reason,
            chunk.usage if _is_usage(chunk.usage) else None,
            None if id is None or not _NUMBER.fullmatch(id) else int(id),
        )

    def unknown(self) -> CallFailed:
        """What to raise where the answer can't be one of Reverie's."""
        return CallFailed(f"{self.url} doesn't answer as Reverie does: is it another server?")

    def _refused(self, response: http.client.HTTPResponse, body: bytes) -> Refused:
        """The server's own sentence, and what to do about a key."""
        status = response.status
        try:
            said = msgspec.json.decode(body)
            error = said.get("error") if isinstance(said, dict) else None
        except msgspec.MsgspecError:
            error = None
        sentence = _sentence(error) or f"{self.url} answers with the status {status}."
        if status == 401 and self._key is None:
            sentence += f" Set {KEY_VARIABLE} to your key."
        wait = response.headers.get("Retry-After", "")
        retry_after = float(wait) if wait.isdecimal() else None
        return Refused(sentence, status=status, code=_code(error), retry_after=retry_after)


def streamed(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a request for a stream, as it is sent."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def _is_usage(usage: dict[str, Any] | None) -> bool:
    counts = [(usage or {}).get(name) for name in ("prompt_tokens", "completion_tokens")]
    return all(isinstance(count, int) for count in counts)


def _encoded(body: dict[str, Any]) -> bytes:
    """The body as JSON.

    Raises:
        CallFailed: an argument, or what was typed, holds bytes that are no text.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise CallFailed("what was asked isn't text in UTF-8: write it anew") from None


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: Any = None


def _sentence(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return without_controls(message) if isinstance(message, str) else ""


def _code(error: Any) -> str:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def _parts_of(url: str, given_as: str) -> SplitResult:
    mistake = None
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            mistake = f"write the server's address, as in {DEFAULT_URL}"
        elif parts.username or parts.password:
            mistake = f"put the key into {KEY_VARIABLE}, and not into the address"
        elif parts.query or parts.fragment or not (url.isascii() and url.isprintable()):
            mistake = "leave out what isn't part of the server's address"
    except ValueError:
        mistake = f"write the server's address, as in {DEFAULT_URL}"
    if mistake:
        raise typer.BadParameter(mistake, param_hint=f"'{given_as}'")
    return parts
