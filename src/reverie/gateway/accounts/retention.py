"""Removes old requests from the ledger while the server runs, if the configuration says so.

One gateway of those that share the store does it: the one that started first. It removes a few rows
at a time, when no request waits for the store, and rests for longer than it works.
"""

from __future__ import annotations

import asyncio
import logging
import time

from reverie.background import Loop, Watch
from reverie.gateway.accounts.ledger import Ledger
from reverie.log import fields
from reverie.store import gateways
from reverie.store.database.engine import Store
from reverie.store.upkeep.prune import RequestPruner, prune_gateways
from reverie.times import DAY_MS, now_ms

logger = logging.getLogger("reverie.store")

_EVERY = 3600.0
"""Seconds between two rounds."""
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
        if days is None or not await asyncio.to_thread(self._is_its_turn):
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

    def _is_its_turn(self) -> bool:
        with self._store.read() as connection:
            return gateways.is_first(connection, self._ledger.gateway, now_ms())

    async def _quiet_moment(self) -> None:
        for _ in range(_LOOKS):
            if not self._ledger.busy:
                return
            await asyncio.sleep(_LOOK_EVERY)
