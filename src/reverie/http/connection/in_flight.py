"""The requests that run now: a drain waits for them, and can end them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from reverie.errors import BackendTimeout, Overloaded, ReverieError
from reverie.gateway.record import RequestRecord
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.exchange import Receive, watch_disconnect


class InFlight:
    """Every generation, and every client that waits for one, is registered here while it runs."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[CancelScope] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def refuse_when_draining(self) -> None:
        """Refuse a new request during a drain.

        Raises:
            Overloaded
        """
        if self.draining:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)

    @asynccontextmanager
    async def running(
        self, limit: float, *, joins: bool = False, record: RequestRecord | None = None
    ) -> AsyncGenerator[CancelScope, None]:
        """Run the block for at most ``limit`` seconds, or until a shutdown ends it.

        Args:
            joins: allowed during a drain, too: the block waits for a generation that is registered
                by itself.
            record: of the request that runs, which can be cancelled by it.

        Raises:
            Overloaded: the server drains.
        """
        if not joins:
            self.refuse_when_draining()
        async with CancelScope() as cancel_scope:
            self._running.add(cancel_scope)
            if record is not None:
                record.cancel = cancel_scope.end
            self._idle.clear()
            deadline = asyncio.get_running_loop().call_later(
                limit,
                cancel_scope.end,
                BackendTimeout(
                    f"The answer took more than {limit:g} s. Ask for a shorter one.",
                    reason="request_timeout",
                ),
            )
            try:
                yield cancel_scope
            finally:
                deadline.cancel()
                self._running.discard(cancel_scope)
                if record is not None:
                    record.cancel = None
                if not self._running:
                    self._idle.set()

    @asynccontextmanager
    async def watched(
        self,
        receive: Receive,
        limit: float,
        *,
        joins: bool = False,
        record: RequestRecord | None = None,
    ) -> AsyncGenerator[CancelScope, None]:
        """As ``running``; the client's leaving ends the block, too."""
        async with self.running(limit, joins=joins, record=record) as cancel_scope:
            watcher = asyncio.create_task(watch_disconnect(receive, cancel_scope))
            try:
                yield cancel_scope
            finally:
                watcher.cancel()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, error: ReverieError) -> None:
        for cancel_scope in self._running:
            cancel_scope.end(error)
