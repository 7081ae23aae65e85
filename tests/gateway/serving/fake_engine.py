"""An embedded backend without a process: it starts, gets ready and stops when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reverie.errors import ModelError


class FakeEngine:
    """What an ``OnDemandModel`` needs of an ``EmbeddedBackend``."""

    def __init__(self, memory: int = 100) -> None:
        self.memory = memory
        self.ready = False
        self.failure: str | None = None
        self.refuses = False
        """Whether a start fails."""
        self.starts = 0
        self.stops = 0
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self._on_change: Callable[[], None] = lambda: None

    async def check_engine(self) -> None:
        if self.refuses:
            raise ModelError("It is no model.")

    async def start(self, on_change: Callable[[], None]) -> None:
        if self.refuses:
            raise ModelError("It is no model.")
        self.starts += 1
        self._on_change = on_change

    def forget_failure(self) -> None:
        self.failure = None

    def become_ready(self) -> None:
        self.ready = True
        self._on_change()

    async def stop(self) -> None:
        await self.may_stop.wait()
        self.stops += 1
        self.ready = False
