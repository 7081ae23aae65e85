"""The memory that the engines here share: who is loaded, and who goes when another needs room.

Rule: whether there is room is decided, and the room taken, without waiting in between.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from reverie.log import fields

logger = logging.getLogger("reverie")

MIB = 1024 * 1024


class Evictable(Protocol):
    """An engine that takes memory."""

    name: str
    """Its model's."""
    present: bool
    """Whether it takes its memory. Only ``make_room`` and the engine's own end change that."""
    used_at: float
    """When it last had anything to do, by ``time.monotonic``."""

    @property
    def memory(self) -> int:
        """Bytes that it takes while it is present."""

    @property
    def busy(self) -> bool:
        """Whether a request needs it, be it present or not."""

    async def unload(self, reason: str) -> None:
        """End the engine and give its memory back, unless it has become busy."""


class MemoryBudget:
    """The engines here, and how much they may take together.

    Args:
        budget: bytes; 0: any.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._engines: set[Evictable] = set()
        self._change = asyncio.Event()

    def add(self, engine: Evictable) -> None:
        self._engines.add(engine)

    def remove(self, engine: Evictable) -> None:
        self._engines.discard(engine)
        self.changed()

    def changed(self) -> None:
        """Look again who may go. Called when one was unloaded, or is no longer busy."""
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def make_room(self, newcomer: Evictable) -> bool:
        """Let a newcomer in, once those who idle have gone: the least recently used ones first.

        If all others are busy, it waits for one of them, and gives up (False) when no request
        waits for it any more.
        """
        told = False
        while not self._fits(newcomer):
            idle = [other for other in self._engines if other.present and not other.busy]
            if idle:
                oldest = min(idle, key=lambda engine: engine.used_at)
                await oldest.unload(f"room for {newcomer.name}")
                continue
            if not newcomer.busy:
                return False
            if not told:
                logger.warning("no memory for a model", extra=fields(model=newcomer.name))
                told = True
            await self._change.wait()
        newcomer.present = True
        return True

    def _fits(self, newcomer: Evictable) -> bool:
        others = sum(other.memory for other in self._engines if other.present)
        return not self.budget or others + newcomer.memory <= self.budget


def shortage(budget: int, needs: dict[str, int], warm: set[str]) -> list[str]:
    """What can never work out, a sentence each.

    Args:
        budget: bytes that all engines may take; 0: any.
        needs: bytes that each model's engine takes.
        warm: the models that are loaded at the start.
    """
    if not budget:
        return []
    allowed = f"server.memory_budget_mib is {budget // MIB}"
    problems = [
        f"model {name}: it needs about {_mib(need)} MiB, and {allowed}"
        for name, need in needs.items()
        if need > budget
    ]
    together = sum(need for name, need in needs.items() if name in warm)
    if not problems and together > budget:
        problems.append(
            f"the models that are loaded at the start need about {_mib(together)} MiB together, "
            f"and {allowed}: let some of them have warm = false"
        )
    return problems


def _mib(size: int) -> int:
    return -(-size // MIB)
