"""The connections to one server: opened, lent to one request at a time, kept for the next."""

from __future__ import annotations

import asyncio
import contextlib
from ssl import SSLContext

from reverie.backends.client.address import Address
from reverie.backends.client.connecting import Connector, unreachable, unreachable_in_time
from reverie.backends.client.connection import Connection
from reverie.errors import ConnectionLost

_IDLE_SECONDS = 15.0
"""How long a connection is kept without a request."""
_DRAIN_SECONDS = 0.2
"""How long the rest of a response may take, once all that matters of it has been read."""
_CLOSE_TIMEOUT = 1.0
"""Seconds for the connections to be gone, which they are in the loop's next turn."""


class Pool:
    """Lends the connection that was used last, which the server is least likely to close.

    Args:
        connect_timeout: seconds for name look-up, connection and TLS together.
        reuses: whether connections are kept.
        idle_seconds: how long, without a request.
        tls: as in ``Connector``.
    """

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout: float,
        reuses: bool,
        idle_seconds: float = _IDLE_SECONDS,
        tls: SSLContext | None = None,
    ) -> None:
        self.closed = False
        self._connector = Connector(address, tls)
        self._connect_timeout = connect_timeout
        self._reuses = reuses
        self._idle_seconds = idle_seconds
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._connecting: set[asyncio.Timeout] = set()
        self._empty = asyncio.Event()

    def take(self) -> Connection | None:
        """A connection that served before; None: there is none."""
        return self._idle.popitem()[0] if self._idle else None

    async def connect(self, deadline: float) -> Connection:
        """A new connection.

        Args:
            deadline: on the loop's clock, if that comes before the time to connect is over.

        Raises:
            BackendTimeout: it took too long.
            ConnectionLost: it can't be had, or the pool is closed.
        """
        if self.closed:
            raise _closed()
        limit = asyncio.get_running_loop().time() + self._connect_timeout
        scope = asyncio.timeout_at(min(limit, deadline))
        self._connecting.add(scope)
        try:
            async with scope:
                connection = await self._connector.open(self._new)
        except (OSError, RuntimeError) as error:
            if self.closed:
                raise _closed() from None
            if scope.expired():
                raise unreachable_in_time() from None
            raise unreachable(error) from error
        finally:
            self._connecting.discard(scope)
        if self.closed:
            connection.abort()
            raise _closed()
        if connection.is_open:  # or it will tell the request
            self._open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back: it is kept if it can be used again, else closed at once."""
        if self._reuses and not self.closed and connection.reusable:
            self._idle[connection] = None
            connection.rest(self._idle_seconds)
        else:
            connection.abort()

    def drain(self, connection: Connection) -> None:
        """Take a connection back though its response hasn't ended: once it has, it is kept."""
        if self._reuses and not self.closed:
            connection.drain(_DRAIN_SECONDS, self.release)
        else:
            connection.abort()

    async def close(self) -> None:
        """Close every connection. What waits for one raises ``BackendError``. Idempotent."""
        self.closed = True
        for scope in self._connecting:
            if not scope.expired():
                scope.reschedule(0)
        self._empty.clear()
        for connection in tuple(self._open):
            connection.abort()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._empty.wait()

    def _new(self) -> Connection:
        return Connection(self._on_lost)

    def _on_lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if not connection.is_open:
            self._open.discard(connection)
            if not self._open:
                self._empty.set()


def _closed() -> ConnectionLost:
    return ConnectionLost(
        "The model's backend can't be reached. Try again.", reason="it is stopped"
    )
