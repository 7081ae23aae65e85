"""An HTTP client for one server.

Rule 1: a connection whose response wasn't read to its end is closed and never reused. Closing it
makes the engine stop. Where only the end is missing, it is read over first (``leave_rest``).

Rule 2: what goes wrong is a ``BackendError``; no other exception leaves this module.

Rule 3: every wait has a deadline.

Rule 4: what is posted carries the id of the request that it is for, as ``X-Request-Id``. While the
server still works on that id, another one is derived from it: vLLM before 0.13 refuses an id that
it knows already, and a request with several answers is several to its engine.

Rule 5: what is sent for a request that is traced names the attempt's place in the trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from ssl import SSLContext
from types import TracebackType

from reverie import correlation
from reverie.backends.client.address import Address
from reverie.backends.client.connection import Connection, Sink
from reverie.backends.client.pool import Pool
from reverie.errors import BackendError, ConnectionLost
from reverie.ids import random_id
from reverie.trace_context import outgoing

_MAX_GET_BYTES = 64 * 1024
_GET_BODY_TIMEOUT = 0.5


class Headers(Mapping[str, str]):
    """Of a response. The case of a name doesn't matter."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower().encode()].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Response:
    """The response to one request. ``status`` and ``headers`` are known, the body follows."""

    __slots__ = ("_connection", "_ended", "_pool", "headers", "status")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self._ended = False
        self.status = connection.status
        self.headers = Headers(connection.headers)

    @property
    def content_type(self) -> str:
        """In lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def at_end(self) -> bool:
        """True once all of the body has been read."""
        return self._ended if self._connection is None else self._connection.at_end

    def read(self, deadline: float) -> Awaitable[bytes]:
        """The bytes that have arrived, at least one; empty at the body's end.

        Args:
            deadline: on the loop's clock.

        Raises:
            BackendTimeout: nothing came before the deadline.
            BackendError: the connection broke.
        """
        return self._open.read(deadline)

    def pass_on(self, sink: Sink, deadline: float) -> Awaitable[None]:
        """Give a sink what arrives of the body, until it takes no more or the body has ended.

        Args:
            deadline: on the loop's clock, for the first bytes.

        Raises:
            BackendTimeout, BackendError: as ``read``.
        """
        return self._open.pass_on(sink, deadline)

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise ConnectionLost(
                "The connection to the model's backend broke. Try again.", reason="it was closed"
            )
        return self._connection

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
        connection, self._connection = self._connection, None
        if connection is not None:
            self._ended = connection.at_end
            self._pool.release(connection)

    def leave_rest(self) -> None:
        """Close it where only the end is missing: it is read over, so that its connection can be
        reused."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._ended = True
            self._pool.drain(connection)


class Transport:
    """Connections to one server.

    TCP connections are kept and reused. A Unix socket gets a new connection for each request, since
    llama.cpp closes it after a stream. There are no proxies, no cookies and no redirects.

    Args:
        url: ``http://…``, ``https://…``, or ``http+unix://%2Fpath%2Fof%2Fsocket/…``.
        socket: the Unix socket to use instead of the URL's host.
        headers: sent with each request. A client's headers never are.
        connect_timeout: seconds for name look-up, connection and TLS together.
        tls: checks the server's certificate; None: the system's authorities do.

    Raises:
        ValueError: the URL or a header can't be used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        connect_timeout: float,
        socket: str | None,
        tls: SSLContext | None = None,
    ) -> None:
        self._address = Address.of(url, socket)
        self._pool = Pool(
            self._address,
            connect_timeout=connect_timeout,
            reuses=self._address.socket is None,
            tls=tls,
        )
        self._fields = _fields({"Host": self._address.authority, **headers})
        self._heads: dict[str, bytes] = {}  # of POST, by path, up to what differs
        self.working_on: set[str] = set()
        """The ids of what was posted and whose response is still read."""

    async def close(self) -> None:
        """Close every connection. Reads that are waiting raise ``BackendError``."""
        await self._pool.close()

    async def get(self, path: str, timeout: float) -> tuple[int, bytes]:
        """GET on a fresh connection; return the status and what arrives of the body at once.

        Args:
            path: appended to the URL; with a leading slash it replaces the URL's ``/v1``.
            timeout: seconds for the status.

        Raises:
            BackendTimeout, BackendError: no response came.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        head = self._head("GET", path) + b"\r\n"
        connection = await self._pool.connect(deadline)
        try:
            await connection.request(head, b"", deadline)
            response = Response(connection, self._pool)
            body = await response.read_all(_MAX_GET_BYTES, clock() + _GET_BODY_TIMEOUT)
            return response.status, body
        finally:
            connection.abort()

    def post(
        self, path: str, body: bytes, deadline: float
    ) -> AbstractAsyncContextManager[Response, None]:
        """Send a request; enter to get its response once the head has arrived.

        Args:
            path: as for ``get``.
            deadline: on the loop's clock, for the head.

        Raises:
            BackendTimeout, BackendError: no response came.
        """
        return _Exchange(self, path, body, deadline)

    async def respond(
        self, path: str, body: bytes, deadline: float, request_id: str | None
    ) -> Response:
        """Send, with a second try if a reused connection fails: a server may close an idle one
        just as a request is sent on it, which says nothing about the request.
        """
        told = b"" if request_id is None else b"X-Request-Id: %b\r\n" % request_id.encode()
        told += outgoing.get()
        head = self._post_head(path) + b"%bContent-Length: %d\r\n\r\n" % (told, len(body))
        connection = self._pool.take()
        if connection is not None:
            try:
                return await self._send(connection, head, body, deadline)
            except ConnectionLost:
                if not connection.untouched or self._pool.closed:
                    raise
        connection = await self._pool.connect(deadline)
        return await self._send(connection, head, body, deadline)

    async def _send(
        self, connection: Connection, head: bytes, body: bytes, deadline: float
    ) -> Response:
        try:
            await connection.request(head, body, deadline)
            if connection.status == 200:
                _require_plain(connection.headers)
        except BaseException:
            connection.abort()
            raise
        return Response(connection, self._pool)

    def _post_head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._head("POST", path)
        return head

    def _head(self, method: str, path: str) -> bytes:
        return f"{method} {self._address.target(path)} HTTP/1.1\r\n".encode() + self._fields


class _Exchange(AbstractAsyncContextManager[Response, None]):
    """Holds a response's connection while the response is read."""

    __slots__ = ("_arguments", "_id", "_response", "_transport")

    def __init__(self, transport: Transport, path: str, body: bytes, deadline: float) -> None:
        self._transport = transport
        self._arguments = path, body, deadline
        self._id: str | None = None

    async def __aenter__(self) -> Response:
        self._id = self._begin_work()
        try:
            self._response = await self._transport.respond(*self._arguments, self._id)
        except BaseException:
            self._end_work()
            raise
        return self._response

    def _begin_work(self) -> str | None:
        """The id to be sent: that of the request which this is for, or one that begins with it."""
        found = correlation.request_id()
        if found is None:
            return None
        if found in self._transport.working_on:
            found = f"{found}.{random_id()[:8]}"
        self._transport.working_on.add(found)
        return found

    def _end_work(self) -> None:
        if self._id is not None:
            self._transport.working_on.discard(self._id)

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._end_work()
        self._response.close()


def _fields(headers: Mapping[str, str]) -> bytes:
    """The header lines of every request.

    Raises:
        ValueError: one of them would be more than one line.
    """
    for name, value in headers.items():
        if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
            raise ValueError(f"the header {name!r} can't be sent: it isn't plain text")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def _require_plain(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a compressed body.

    Raises:
        BackendError: it is one.
    """
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        raise BackendError(
            "The model's backend compressed its answer, which it was asked not to. Switch that "
            "off where it runs, or in the proxy before it.",
            reason="a compressed answer",
        )
