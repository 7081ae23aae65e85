"""The generations that run now: what a drain waits for, and can cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from reverie.errors import BackendTimeout, Overloaded, ReverieError
from reverie.http.connection.exchange import CancelScope


class InFlight:
    """Every generation, and every client that waits for one, is entered here while it runs."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[CancelScope] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def refuse_when_draining(self) -> None:
        """Let nothing begin that the drain would have to wait for.

        Raises:
            Overloaded
        """
        if self.draining:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)

    @asynccontextmanager
    async def running(
        self, limit: float, *, joins: bool = False
    ) -> AsyncGenerator[CancelScope, None]:
        """Run what is inside for at most ``limit`` seconds, or until a shutdown cuts it.

        Args:
            joins: it is entered during a drain, too: what it waits for is entered by itself.

        Raises:
            Overloaded: the server drains.
        """
        if not joins:
            self.refuse_when_draining()
        async with CancelScope() as cancel_scope:
            self._running.add(cancel_scope)
            self._idle.clear()
            deadline = asyncio.get_running_loop().call_later(
                limit,
                cancel_scope.end,
                BackendTimeout(f"The answer took more than {limit:g} s.", reason="request_timeout"),
            )
            try:
                yield cancel_scope
            finally:
                deadline.cancel()
                self._running.discard(cancel_scope)
                if not self._running:
                    self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, error: ReverieError) -> None:
        for cancel_scope in self._running:
            cancel_scope.end(error)
