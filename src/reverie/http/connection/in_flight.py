"""The generations that run now: what a drain waits for, and can cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from reverie.errors import BackendTimeout, Overloaded, ReverieError
from reverie.http.connection.exchange import Interruption


class InFlight:
    """Every generation, and every client that waits for one, is entered here while it runs."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[Interruption] = set()
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
    ) -> AsyncGenerator[Interruption, None]:
        """Run what is inside for at most ``limit`` seconds, or until a shutdown cuts it.

        Args:
            joins: it is entered during a drain, too: what it waits for is entered by itself.

        Raises:
            Overloaded: the server drains.
        """
        if not joins:
            self.refuse_when_draining()
        async with Interruption() as interruption:
            self._running.add(interruption)
            self._idle.clear()
            deadline = asyncio.get_running_loop().call_later(
                limit,
                interruption.end,
                BackendTimeout(f"The answer took more than {limit:g} s.", reason="request_timeout"),
            )
            try:
                yield interruption
            finally:
                deadline.cancel()
                self._running.discard(interruption)
                if not self._running:
                    self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, error: ReverieError) -> None:
        for interruption in self._running:
            interruption.end(error)
