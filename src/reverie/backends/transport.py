"""An HTTP client for one server. Only this module uses aiohttp.

Rule 1: a connection whose response wasn't read to its end is closed and never reused. Closing it
makes the engine stop.

Rule 2: no exception of the library leaves this module.

Rule 3: every read has a deadline, but one timer serves all reads of a response: unless a deadline
comes earlier, it is set again only when it fires.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import yarl
from aiohttp.http import HttpProcessingError

from reverie.errors import BackendError, BackendTimeout, ConnectionLost

_LIBRARY_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)  # includes TimeoutError

_LARGE_BODY = 512 * 1024
"""Bytes from which a request is sent in parts, so that other requests' tokens go out in between."""
_MAX_GET_BYTES = 64 * 1024
_GET_BODY_TIMEOUT = 0.5


class Response:
    """The response to one request. ``status`` and ``headers`` are known, the body follows."""

    __slots__ = ("_content", "_deadline", "_fires_at", "_loop", "_response", "_timer", "_waiting")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._waiting = False
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def content_type(self) -> str:
        """In lower case, without parameters."""
        return self._response.content_type

    @property
    def at_end(self) -> bool:
        """True once all of the body has been read."""
        return self._content.at_eof()

    async def read(self, deadline: float) -> bytes:
        """The bytes that have arrived, at least one; empty at the body's end.

        Args:
            deadline: on the loop's clock.

        Raises:
            BackendTimeout: nothing came before the deadline.
            BackendError: the connection broke.
        """
        self._deadline = deadline
        if deadline < self._fires_at:
            self._set_timer()
        self._waiting = True
        try:
            return await self._content.readany()
        except _LIBRARY_ERRORS as error:
            raise self._as_backend_error(error) from error
        finally:
            self._waiting = False

    async def read_all(self, limit: int, deadline: float) -> bytes:
        """The first ``limit`` bytes of the body, or those that arrived before it failed."""
        parts = bytearray()
        try:
            while len(parts) < limit and (part := await self.read(deadline)):
                parts += part
        except BackendError:
            pass
        return bytes(parts[:limit])

    def close(self) -> None:
        """Close the connection, unless the body was read to its end: then it can be reused."""
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._fires_at = math.inf
        if not self._waiting:
            return  # the consumer is busy; the next read sets the timer
        if self._deadline <= self._loop.time():
            self._response.close()  # which ends the read
        else:
            self._set_timer()

    def _as_backend_error(self, error: BaseException) -> BackendError:
        if self._deadline <= self._loop.time():
            return BackendTimeout(
                "The model's backend fell silent. Try again.", reason="no token in time"
            )
        return ConnectionLost(
            "The connection to the model's backend broke. Try again.", reason=type(error).__name__
        )


class Transport:
    """Connections to one server.

    TCP connections are kept and reused. A Unix socket gets a new connection for each request, since
    llama.cpp closes it after a stream.

    Args:
        url: ``http://…``, ``https://…``, or ``http+unix://%2Fpath%2Fof%2Fsocket/…``.
        socket: the Unix socket to use instead of the URL's host.
        headers: sent with each request. A client's headers never are.
        connect_timeout: seconds for name look-up, connection and TLS together.

    Raises:
        ValueError: the URL can't be used.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str], connect_timeout: float, socket: str | None
    ) -> None:
        if url.startswith("http+unix://"):
            parts = urlsplit(url)
            socket = socket or unquote(parts.netloc)
            if not socket.startswith("/"):
                raise ValueError("a socket's path is written as http+unix://%2Fpath%2Fof%2Fsocket")
            url = f"http://engine{parts.path}"
        self._url = yarl.URL(url)
        if not self._url.host:
            raise ValueError("it names no host")
        self._socket = socket
        self._headers = headers
        self._responses: set[Response] = set()
        self.reuses_connections = socket is None
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = self._new_session(
            keep_alive=self.reuses_connections,
            timeout=aiohttp.ClientTimeout(connect=connect_timeout),
            trace_configs=[tracing] if self.reuses_connections else [],
        )

    def _new_session(self, *, keep_alive: bool, **options: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive)
            if self._socket is None
            else aiohttp.UnixConnector(self._socket, limit=0, force_close=not keep_alive),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            **options,
        )

    async def close(self) -> None:
        """Close every connection. Reads that are waiting raise ``BackendError``."""
        for response in tuple(self._responses):
            response.close()  # the session's own close would leave reads waiting
        await self._session.close()

    async def get(self, path: str, timeout: float) -> tuple[int, bytes]:
        """GET on a fresh connection; return the status and what arrives of the body at once.

        Args:
            path: appended to the URL; with a leading slash it replaces the URL's ``/v1``.
            timeout: seconds for the status.

        Raises:
            BackendTimeout, BackendError: no response came.
        """
        try:
            async with (
                asyncio.timeout(timeout),
                self._new_session(keep_alive=False) as session,
                session.get(self._address(path), allow_redirects=False) as response,
            ):
                return response.status, await _read_at_once(response.content)
        except _LIBRARY_ERRORS as error:
            raise _no_response(error) from error

    @asynccontextmanager
    async def post(self, path: str, body: bytes, deadline: float) -> AsyncGenerator[Response, None]:
        """Send a request; yield its response once the head has arrived.

        Args:
            path: as for ``get``.
            deadline: on the loop's clock, for the head.

        Raises:
            BackendTimeout, BackendError: no response came.
        """
        try:
            async with asyncio.timeout_at(deadline):
                received = await self._send(self._address(path), body)
        except _LIBRARY_ERRORS as error:
            raise _no_response(error) from error
        response = Response(received)
        self._responses.add(response)
        try:
            yield response
        finally:
            self._responses.discard(response)
            response.close()

    def _address(self, path: str) -> yarl.URL:
        base = self._url.parent if path[0] == "/" and self._url.name == "v1" else self._url
        return base.joinpath(path.lstrip("/"))

    async def _send(self, url: yarl.URL, body: bytes) -> aiohttp.ClientResponse:
        """Send, with a second try if a reused connection fails: a server may close an idle one
        just as a request is sent on it, which says nothing about the request.
        """
        trace = SimpleNamespace(reused=False)
        try:
            return await self._session.post(
                url, data=_payload(body), allow_redirects=False, trace_request_ctx=trace
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not trace.reused or self._session.closed:
                raise
        return await self._session.post(url, data=_payload(body), allow_redirects=False)


async def _read_at_once(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    with contextlib.suppress(*_LIBRARY_ERRORS):
        async with asyncio.timeout(_GET_BODY_TIMEOUT):
            while len(body) < _MAX_GET_BYTES and (part := await content.readany()):
                body += part
    return bytes(body)


def _payload(body: bytes) -> bytes | io.BytesIO:
    return body if len(body) < _LARGE_BODY else io.BytesIO(body)


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.reused = True


def _no_response(error: BaseException) -> BackendError:
    """The error for a request without a response."""
    reason = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        reason += f", errno {error.os_error.errno}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return BackendTimeout(
            "The model's backend can't be reached in time. Try again.", reason=reason
        )
    if isinstance(error, TimeoutError):
        return BackendTimeout(
            "The model's backend did not answer in time. Try again.", reason="no first token"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectionLost("The model's backend can't be reached. Try again.", reason=reason)
    return ConnectionLost(
        "The model's backend closed the connection unanswered. Try again.", reason=reason
    )
