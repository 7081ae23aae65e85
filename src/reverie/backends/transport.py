"""HTTP towards one server: a POST and the bytes of its answer. aiohttp is used here only.

Rule 1: a connection whose answer wasn't read to its end is closed, never reused. Closing it is
what makes an engine stop.

Rule 2: no exception of the library leaves this module.

Rule 3: a read has a deadline, and one timer serves all reads of an answer: it is set again only
when it fires, not per read.
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

from reverie.errors import BackendError, BackendTimeout

_LIBRARY_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)  # OSError: TimeoutError, too


_LARGE_BODY = 512 * 1024
_PAGE = 64 * 1024
_PAGE_TIMEOUT = 0.5


class Body:
    """The answer to one request; ``status`` and ``headers`` are there from the start."""

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
        """Whether all of it has been read."""
        return self._content.at_eof()

    async def read(self, deadline: float) -> bytes:
        """What has arrived; waits for at least one byte. Empty at the end.

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
            raise self._translated(error) from error
        finally:
            self._waiting = False

    async def read_all(self, limit: int, deadline: float) -> bytes:
        """The body, or the first ``limit`` bytes of it, or what arrived before it failed."""
        parts = bytearray()
        try:
            while len(parts) < limit and (part := await self.read(deadline)):
                parts += part
        except BackendError:
            pass
        return bytes(parts[:limit])

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end: it is in the pool then."""
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
            return  # whoever consumes the answer is busy; the next read sets the timer
        if self._deadline <= self._loop.time():
            self._response.close()  # which ends the read
        else:
            self._set_timer()

    def _translated(self, error: BaseException) -> BackendError:
        if self._deadline <= self._loop.time():
            return BackendTimeout("The model's backend fell silent.", reason="no token in time")
        return BackendError(
            "The connection to the model's backend broke.", reason=type(error).__name__
        )


class Transport:
    """Connections to one server.

    A Unix socket gets a connection per request, since llama.cpp closes it after a stream. TCP
    connections are kept and used again.

    Args:
        url: ``http://…``, ``https://…``, or ``http+unix://%2Fpath%2Fof%2Fsocket/…``.
        socket: the Unix socket to use instead of the URL's host.
        headers: sent with each request. Nothing of a client's request is.
        connect_timeout: seconds, for name look-up, connection and TLS together.

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
        self._answers: set[Body] = set()
        self.reuses_connections = socket is None
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0)
            if socket is None
            else aiohttp.UnixConnector(socket, limit=0, force_close=True),
            headers=headers,
            timeout=aiohttp.ClientTimeout(connect=connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing] if socket is None else [],
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection. Those who read an answer get a ``BackendError``."""
        for answer in tuple(self._answers):
            answer.close()  # the session's own close would leave them waiting
        await self._session.close()

    async def get(self, path: str, timeout: float) -> tuple[int, bytes]:
        """GET a page, on a connection of its own; give its status, and what there is of it at once.

        Args:
            path: appended to the URL; with a slash before it, in place of the URL's ``/v1``.
            timeout: seconds for the status.

        Raises:
            BackendTimeout, BackendError: no answer came.
        """
        base = self._url.parent if path[0] == "/" and self._url.name == "v1" else self._url
        try:
            async with (
                asyncio.timeout(timeout),
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True)
                    if self._socket is None
                    else aiohttp.UnixConnector(self._socket, force_close=True),
                    headers=self._headers,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                ) as session,
                session.get(base.joinpath(path.lstrip("/")), allow_redirects=False) as response,
            ):
                return response.status, await _page(response.content)
        except _LIBRARY_ERRORS as error:
            raise _unanswered(error) from error

    @asynccontextmanager
    async def post(self, path: str, body: bytes, deadline: float) -> AsyncGenerator[Body, None]:
        """Send a request, and give its answer once the head of it has arrived.

        Args:
            path: appended to the URL.
            deadline: on the loop's clock, for the head.

        Raises:
            BackendTimeout, BackendError: no answer came.
        """
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._send(self._url.joinpath(path), body)
        except _LIBRARY_ERRORS as error:
            raise _unanswered(error) from error
        answer = Body(response)
        self._answers.add(answer)
        try:
            yield answer
        finally:
            self._answers.discard(answer)
            answer.close()

    async def _send(self, url: yarl.URL, body: bytes) -> aiohttp.ClientResponse:
        """A server may close an idle connection just when a request is sent on it. That says
        nothing of the request, so it gets a second try.
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


async def _page(content: aiohttp.StreamReader) -> bytes:
    page = bytearray()
    with contextlib.suppress(*_LIBRARY_ERRORS):
        async with asyncio.timeout(_PAGE_TIMEOUT):
            while len(page) < _PAGE and (part := await content.readany()):
                page += part
    return bytes(page)


def _payload(body: bytes) -> bytes | io.BytesIO:
    """A large body goes out in parts, so that other requests' tokens go out between them."""
    return body if len(body) < _LARGE_BODY else io.BytesIO(body)


async def _note_reuse(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.reused = True


def _unanswered(error: BaseException) -> BackendError:
    """The error for a request that got no answer."""
    reason = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        reason += f", errno {error.os_error.errno}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return BackendTimeout("The model's backend can't be reached in time.", reason=reason)
    if isinstance(error, TimeoutError):
        return BackendTimeout(
            "The model's backend did not answer in time.", reason="no first token"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return BackendError("The model's backend can't be reached.", reason=reason)
    return BackendError("The model's backend closed the connection unanswered.", reason=reason)
