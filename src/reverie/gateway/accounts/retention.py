"""Removes old requests from the ledger while the server runs, if the configuration says so.

One gateway of those that share the store does it: the one that started first. It removes a few rows
at a time, when no request waits for the store, and rests for longer than it works.

Rule: a clock that went forward by more than a day, since the last round or since any gateway was
last seen, removes nothing for a day: by a wrong clock, all is old.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from reverie.background import Loop, Watch
from reverie.gateway.accounts.ledger import Ledger
from reverie.log import fields
from reverie.store import gateways
from reverie.store.database.coordination import clock_ms
from reverie.store.database.engine import Store
from reverie.store.upkeep.prune import RequestPruner, prune_gateways
from reverie.times import DAY_MS, now_ms

logger = logging.getLogger("reverie.store")

_EVERY = 3600.0
"""Seconds between two rounds."""
_JUMP_MS = DAY_MS
_DOUBT = 86_400.0
"""Seconds for which nothing is removed after the clock went forward by more than ``_JUMP_MS``."""
_REST = 9.0
"""Times the last step's time."""
_SHORTEST_REST = 0.02
_LOOK_EVERY = 0.02
_LOOKS = 250
"""For a quiet moment; then a step is done all the same, on a server that is never quiet."""


class Retention:
    """Keeps the ledger to ``store.keep_requests``.

    Args:
        every: seconds between two rounds.
    """

    def __init__(self, store: Store, ledger: Ledger, *, every: float = _EVERY) -> None:
        self._store = store
        self._ledger = ledger
        self._every = every
        # No request needs it: the store only grows while it fails.
        self._watch = Watch("retention", harmless=True)
        self._loop: Loop | None = None
        self._last_round: tuple[int, float] | None = None
        """By the clock, and by the time that passes however the clock is set."""
        self._doubted_until = -math.inf

    def start(self) -> None:
        if self._store.settings.kept_days is not None:
            self._loop = Loop("retention rounds", self._run)

    async def stop(self) -> None:
        """Idempotent."""
        self._watch.end()
        loop, self._loop = self._loop, None
        if loop is not None:
            await loop.stop()

    async def _run(self) -> None:
        while True:
            with self._watch.step():
                await self._round()
            await asyncio.sleep(self._every)

    async def _round(self) -> None:
        days = self._store.settings.kept_days
        is_right = await asyncio.to_thread(self._is_clock_right)
        if days is None or not is_right or not await asyncio.to_thread(self._is_its_turn):
            return
        before = now_ms() - days * DAY_MS
        pruner = RequestPruner(self._store, before)
        removed = 0
        while True:
            await self._quiet_moment()
            began = time.monotonic()
            count = await asyncio.to_thread(pruner.step)
            if count is None:
                break
            removed += count
            await asyncio.sleep(max(_SHORTEST_REST, _REST * (time.monotonic() - began)))
        await asyncio.to_thread(prune_gateways, self._store, before)
        if removed:
            logger.info("old requests were removed", extra=fields(count=removed, kept_days=days))

    def _is_clock_right(self) -> bool:
        now, passed = now_ms(), time.monotonic()
        if self._last_round is not None:
            clock, then = self._last_round
            expected: int | None = clock + int((passed - then) * 1000)
        else:
            with self._store.read() as connection:
                expected = gateways.last_sign_of_another(connection, self._ledger.gateway)
        self._last_round = now, passed
        if expected is not None and now - expected > _JUMP_MS:
            self._doubted_until = passed + _DOUBT
            logger.warning(
                "nothing old is removed for a day: the clock went forward, or no gateway ran",
                extra=fields(days=(now - expected) // DAY_MS),
            )
        return passed >= self._doubted_until

    def _is_its_turn(self) -> bool:
        with self._store.read() as connection:
            return gateways.is_first(connection, self._ledger.gateway, clock_ms(connection))

    async def _quiet_moment(self) -> None:
        for _ in range(_LOOKS):
            if not self._ledger.busy:
                return
            await asyncio.sleep(_LOOK_EVERY)
