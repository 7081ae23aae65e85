"""A server as the terminal's verbs call it: requests out, JSON or pieces of an answer in."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec
import typer
from msgspec import Struct

from reverie.backends.decoding.sse import ProtocolError, SSEParser

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
_READ_BYTES = 64 * 1024
_MAX_BODY = 64 * 1024 * 1024
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class CallFailed(Exception):
    """The server refuses, fails, or can't be reached. The message is a sentence for the user."""


class Piece(Struct, frozen=True):
    """What one event of an answer brings. All parts may be empty."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


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

    Raises:
        typer.BadParameter: the URL can't be used.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._parts = _parts_of(url)
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
        with self._answer("GET", path, None, key) as response:
            return response.status, response.read(_MAX_BODY)

    def get_json(self, path: str, *, key: str | None = None, also: int = 200) -> Any:
        """The JSON that is there.

        Args:
            also: another status than 200 that isn't a refusal.

        Raises:
            CallFailed: there is none, or the server refuses it.
        """
        status, body = self.get(path, key=key)
        if status not in (200, also):
            raise self._refused(status, body)
        return self.parsed(body)

    def post_json(self, path: str) -> Any:
        """What an empty POST is answered with.

        Raises:
            CallFailed: it is refused.
        """
        with self._answer("POST", path, None) as response:
            answer = response.read(_MAX_BODY)
            if response.status != 200:
                raise self._refused(response.status, answer)
        return self.parsed(answer)

    def ask(self, body: dict[str, Any]) -> Any:
        """The whole answer to a request for a chat completion.

        Raises:
            CallFailed: there is none.
        """
        with self._answer("POST", "/v1/chat/completions", body) as response:
            answer = response.read(_MAX_BODY)
            if response.status != 200:
                raise self._refused(response.status, answer)
        return self.parsed(answer)

    def stream(self, body: dict[str, Any]) -> Generator[Piece, None, None]:
        """The pieces of an answer, as they come. Closing the generator cancels the request.

        Raises:
            CallFailed: there is no answer, or it broke off.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._answer("POST", "/v1/chat/completions", asked) as response:
            if response.status != 200:
                raise self._refused(response.status, response.read(_MAX_BODY))
            parser = SSEParser()
            while data := response.read1(_READ_BYTES):
                for payload in self._events(parser, data):
                    if payload.strip() == b"[DONE]":
                        return
                    yield self._piece(payload)
        raise CallFailed(f"The answer broke off: {self.url} ended it before it was complete.")

    def parsed(self, body: bytes) -> Any:
        """The JSON of an answer.

        Raises:
            CallFailed: it is none.
        """
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise self._unknown() from error

    @property
    def _port(self) -> int:
        return self._parts.port or (443 if self._parts.scheme == "https" else 80)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None = None
    ) -> Generator[http.client.HTTPResponse, None, None]:
        """The response to a request. Whatever breaks while it is read is translated, too."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._port, timeout=_CONNECT_TIMEOUT)
        headers = {"Accept": "*/*", "Content-Type": "application/json"}
        if key := key or self._key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            try:
                connection.connect()
            except OSError as error:
                raise self._unreachable(error) from error
            connection.sock.settimeout(_READ_TIMEOUT)
            payload = None if body is None else msgspec.json.encode(body)
            base = self._parts.path.rstrip("/").removesuffix("/v1")
            connection.request(method, base + path, payload, headers)
            yield connection.getresponse()
        except TimeoutError as error:
            raise CallFailed(f"{self.url} fell silent.") from error
        except (http.client.HTTPException, OSError) as error:
            raise CallFailed(f"The connection to {self.url} broke.") from error
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> CallFailed:
        reason = "it doesn't answer in time" if isinstance(error, TimeoutError) else error.strerror
        return CallFailed(f"No server answers at {self.url} ({reason or error}).")

    def _events(self, parser: SSEParser, data: bytes) -> list[bytes]:
        try:
            return parser.feed(data)
        except ProtocolError as error:
            raise self._unknown() from error

    def _piece(self, payload: bytes) -> Piece:
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except msgspec.MsgspecError as error:
            raise self._unknown() from error
        if chunk.error is not None:
            raise CallFailed(_sentence(chunk.error) or "The answer broke off.")
        choice = chunk.choices[0] if chunk.choices else _Choice()
        delta = choice.delta
        return Piece(
            delta.content or "", delta.reasoning_content or "", choice.finish_reason, chunk.usage
        )

    def _unknown(self) -> CallFailed:
        return CallFailed(f"{self.url} doesn't answer as Reverie does: is it another server?")

    def _refused(self, status: int, body: bytes) -> CallFailed:
        """The server's own sentence, and what to do about a key."""
        try:
            said = msgspec.json.decode(body)
            sentence = _sentence(said.get("error")) if isinstance(said, dict) else ""
        except msgspec.MsgspecError:
            sentence = ""
        sentence = sentence or f"{self.url} answers with the status {status}."
        if status == 401 and self._key is None:
            sentence += f" Set {KEY_VARIABLE} to your key."
        return CallFailed(sentence)


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


def _parts_of(url: str) -> SplitResult:
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
        raise typer.BadParameter(mistake, param_hint="'--url'")
    return parts
