"""An engine here that comes and goes: loaded when it is asked for, unloaded when it idles.

Rule 1: one move at a time. ``_moving`` is held while its engine is started or ended; whether there
is need to is decided inside.

Rule 2: it isn't ended while a request holds it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from reverie.backends.embedded import EmbeddedBackend
from reverie.errors import ModelError
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.log import fields

logger = logging.getLogger("reverie")

_START_UP = 1.0
_READING_SPEED = 300e6
"""Seconds for the engine itself, and bytes of its memory that are filled in one: for a first guess
at how long it loads. Later loads are expected to take as long as the last one did."""
_ROOM_WAIT = 5.0
"""Seconds at the least until it is loaded, if others have to make room first."""


class OnDemandModel:
    """One embedded backend.

    Args:
        on_change: called whenever a request that waits for it should look again.
        idle_unload: seconds without a request after which it is unloaded; 0: never.
    """

    def __init__(
        self,
        name: str,
        backend: EmbeddedBackend,
        memory: MemoryBudget,
        *,
        idle_unload: float,
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.present = False
        self.used_at = time.monotonic()
        self.on_request = False
        """Whether it is being loaded because a request asked for it."""
        self._backend = backend
        self._memory = memory
        self._idle_unload = idle_unload
        self._on_change = on_change
        self._holders = 0
        self._used = False
        self._moving = asyncio.Lock()
        self._leaving = False
        self._loading: asyncio.Task[None] | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._began: float | None = None
        self._took: float | None = None

    @property
    def memory(self) -> int:
        """Bytes, known once checked. An engine that has failed takes none."""
        return 0 if self._backend.failure is not None else self._backend.memory

    @property
    def busy(self) -> bool:
        return self._holders > 0

    @property
    def cold(self) -> bool:
        """Whether there is no engine, and none is on its way."""
        return self._loading is None and (not self.present or self._leaving)

    async def check(self) -> None:
        """Make sure that it can be loaded, as far as can be known, and become known to ``memory``.

        Raises:
            ModelError: it can't.
        """
        await self._backend.check_engine()
        self._memory.add(self)

    def hold(self) -> None:
        """Don't unload it until ``release``."""
        self._holders += 1
        self._stop_timer()

    def release(self) -> None:
        self._holders -= 1
        if self._used:
            self.used_at = time.monotonic()
            self._used = self.busy
        self._watch_idleness()
        if not self.busy:
            self._memory.changed()

    def use(self) -> None:
        """Load it for a request that holds it; until ``release`` it counts as used."""
        self._used = True
        self.used_at = time.monotonic()
        self.load()

    def set_idle_unload(self, seconds: float) -> None:
        self._idle_unload = seconds
        self._watch_idleness()

    async def start(self) -> None:
        """Start its engine where there is room for certain; readiness isn't waited for.

        Raises:
            ModelError: it can't be started.
        """
        async with self._moving:
            self.present = True
            await self._start()

    def load(self, *, on_request: bool = True) -> None:
        """Begin to load it, unless it is loaded or being loaded."""
        if self.cold:
            self.on_request = on_request
            self._loading = asyncio.create_task(self._load(), name=f"load {self.name}")

    async def _load(self) -> None:
        try:
            async with self._moving:
                if await self._memory.make_room(self):
                    await self._start()
        except ModelError as error:
            logger.error("model not loaded", extra=fields(model=self.name, reason=str(error)))
        finally:
            self._loading = None
            self._on_change()

    async def _start(self) -> None:
        self._began = time.monotonic()
        try:
            await self._backend.start(self._changed)
        except BaseException:
            await self._end()
            raise

    def _changed(self) -> None:
        if self._backend.ready and self._began is not None:
            self._took = time.monotonic() - self._began
            self._began = None
            self.on_request = False
            self.used_at = time.monotonic()
            self._watch_idleness()
        self._on_change()

    async def unload(self, reason: str) -> None:
        """End its engine, unless a request holds it. Who cancels this cancels the waiting only."""
        self._unloading = asyncio.create_task(self._unload(reason), name=f"unload {self.name}")
        await asyncio.shield(self._unloading)

    async def _unload(self, reason: str) -> None:
        async with self._moving:
            if not self.present or self.busy:
                return
            logger.info("model unloaded", extra=fields(model=self.name, reason=reason))
            self._leaving = True
            await self._end()

    async def _end(self) -> None:
        await self._backend.stop()
        self._began = None
        self.present = self._leaving = False
        self._memory.changed()

    async def stop(self) -> None:
        """End its engine, whoever uses it, for good. Idempotent."""
        self._stop_timer()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        async with self._moving:
            await self._end()
        self._memory.remove(self)

    def _watch_idleness(self) -> None:
        """Unload it once nobody has used it for long enough."""
        self._stop_timer()
        if self._idle_unload and self.present and not self.busy:
            left = max(0.0, self.used_at + self._idle_unload - time.monotonic())
            self._idle = asyncio.get_running_loop().call_later(left, self._begin_to_unload)

    def _begin_to_unload(self) -> None:
        self._unloading = asyncio.create_task(self._unload("idle"), name=f"unload {self.name}")

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def not_ready_reason(self) -> str:
        """Why it can't answer yet, as the beginning of a sentence."""
        if self._loading is not None and not self.present:
            return "The model still waits for memory, which models that are in use take"
        return "The model is still loading"

    def seconds_to_ready(self) -> float | None:
        """Whole seconds until it can answer, by what its last load took; None: it can."""
        if self._backend.ready:
            return None
        expected = self._took
        if expected is None:
            expected = _START_UP + self.memory / _READING_SPEED
        if not self.present:
            expected = max(expected, _ROOM_WAIT)
        elif self._began is not None:
            elapsed = time.monotonic() - self._began
            # Half as long again, once it takes longer than was expected.
            expected = max(expected - elapsed, elapsed / 2)
        return float(math.ceil(expected))
