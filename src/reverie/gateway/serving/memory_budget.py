"""The memory that embedded engines share: which fit, and which are evicted to make room.

Rule: the decision that there is room, and the taking of it, happen without an ``await`` between.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from reverie.log import fields

logger = logging.getLogger("reverie")

MIB = 1024 * 1024


class Evictable(Protocol):
    """An engine that takes memory while it is loaded, and can be unloaded."""

    name: str
    """The name of its model."""
    in_memory: bool
    """True from the moment its memory is taken, before it loads, until it has been unloaded.

    Set by ``make_room`` and by the engine itself.
    """
    last_used: float
    """By ``time.monotonic``."""

    @property
    def memory(self) -> int:
        """Bytes that it takes while it is in memory."""

    @property
    def in_use(self) -> bool:
        """True while a request needs it, loaded or not."""

    async def unload(self, reason: str) -> None:
        """Stop the engine and give its memory back, unless it has come into use meanwhile."""


class MemoryBudget:
    """The embedded engines, and how much memory they may take together.

    Args:
        limit: bytes; 0: no limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._engines: set[Evictable] = set()
        self._change = asyncio.Event()

    def add(self, engine: Evictable) -> None:
        self._engines.add(engine)

    def remove(self, engine: Evictable) -> None:
        self._engines.discard(engine)
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for room: an engine was unloaded, or is no longer in use."""
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def make_room(self, newcomer: Evictable) -> bool:
        """Take memory for ``newcomer``, evicting idle engines, the least recently used first.

        Waits while all the others are in use. Gives up (False) once no request needs the newcomer.
        """
        warned = False
        while not self._fits(newcomer):
            idle = [other for other in self._engines if other.in_memory and not other.in_use]
            if idle:
                oldest = min(idle, key=lambda engine: engine.last_used)
                await oldest.unload(f"room for {newcomer.name}")
                continue
            if not newcomer.in_use:
                return False
            if not warned:
                logger.warning("no memory for a model", extra=fields(model=newcomer.name))
                warned = True
            await self._change.wait()
        newcomer.in_memory = True
        return True

    def _fits(self, newcomer: Evictable) -> bool:
        others = sum(other.memory for other in self._engines if other.in_memory)
        return not self.limit or others + newcomer.memory <= self.limit


def budget_problems(limit: int, needs: dict[str, int], warm: set[str]) -> list[str]:
    """A sentence for each reason why the models can never fit.

    Args:
        limit: bytes that all engines may take together; 0: no limit.
        needs: bytes that each model's engine takes.
        warm: the models that are loaded at the start.
    """
    if not limit:
        return []
    allowed = f"server.memory_budget_mib is {limit // MIB}"
    problems = [
        f"model {name}: it needs about {_mib(need)} MiB, and {allowed}"
        for name, need in needs.items()
        if need > limit
    ]
    together = sum(need for name, need in needs.items() if name in warm)
    if not problems and together > limit:
        problems.append(
            f"the models that are loaded at the start need about {_mib(together)} MiB together, "
            f"and {allowed}: let some of them have warm = false"
        )
    return problems


def _mib(size: int) -> int:
    """Bytes in MiB, rounded up."""
    return -(-size // MIB)
