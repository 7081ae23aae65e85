"""A model whose engine runs here: loaded when it is asked for, unloaded when it is idle.

Rule 1: one load or unload at a time. ``_transition`` is held while the engine starts or stops, and
the decision whether that is still needed is made while holding it.

Rule 2: the engine isn't unloaded while a request holds the model.

Rule 3: loads and unloads that somebody asks for are decided by the same state, and the latest wins:
an unload ends a load that no request needs. A request that comes meanwhile loads the model again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial

from reverie import background
from reverie.backends.embedded import EmbeddedBackend
from reverie.errors import ModelError
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.log import fields

logger = logging.getLogger("reverie")

_START_UP = 1.0
"""Seconds that an engine takes to start, besides reading its model."""
_READ_RATE = 300e6
"""Bytes of model that are read in a second. With ``_START_UP`` it gives the first estimate of a
load's duration; later loads are expected to take as long as the last one did."""
_MIN_ROOM_WAIT = 5.0
"""Seconds that a load takes at least if other engines must be evicted first."""


class OnDemandModel:
    """One embedded backend, which ``MemoryBudget`` can evict.

    Args:
        idle_unload: seconds without a request after which the engine is unloaded; 0: never.
        on_change: called whenever requests that wait for the model should look again.
    """

    def __init__(
        self,
        name: str,
        backend: EmbeddedBackend,
        budget: MemoryBudget,
        *,
        idle_unload: float,
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.in_memory = False
        self.last_used = time.monotonic()
        self.loading_on_request = False
        """True while the engine is being loaded because somebody asked for it."""
        self.load_failure: str | None = None
        """Why the latest load failed, for the operator."""
        self._backend = backend
        self._budget = budget
        self._idle_unload = idle_unload
        self._on_change = on_change
        self._holders = 0
        self._unloads = 0
        self._used_since_idle = False
        self._transition = asyncio.Lock()
        self._stopping = False
        self._loading: asyncio.Task[None] | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._load_began: float | None = None
        self._last_load: float | None = None

    @property
    def memory(self) -> int:
        """Bytes, by an estimate that ``check`` makes. An engine that has failed takes none."""
        return 0 if self._backend.failure is not None else self._backend.memory

    @property
    def estimated_memory(self) -> int:
        """Bytes that the engine takes when it is loaded, by the same estimate."""
        return self._backend.memory

    @property
    def in_use(self) -> bool:
        return self._holders > 0

    @property
    def holders(self) -> int:
        """Requests that hold the model."""
        return self._holders

    @property
    def is_cold(self) -> bool:
        """True if the engine is neither loaded nor being loaded."""
        return self._loading is None and (not self.in_memory or self._stopping)

    async def check(self) -> None:
        """Check the model and the engine without loading it, and join the memory budget.

        Raises:
            ModelError: the model can't be loaded.
        """
        await self._backend.check_engine()
        self._budget.add(self)

    def hold(self) -> None:
        """Keep the engine from being unloaded until ``release``."""
        self._holders += 1
        self._cancel_idle_timer()

    def release(self) -> None:
        self._holders -= 1
        if self._used_since_idle:
            self.last_used = time.monotonic()
            self._used_since_idle = self.in_use
        self._restart_idle_timer()
        if not self.in_use:
            self._budget.notify()

    def load_for_request(self) -> None:
        """Load the engine for a request that holds the model, and count it as used.

        A request that holds the model but is refused before it gets here doesn't count as use.
        """
        self._used_since_idle = True
        self.last_used = time.monotonic()
        self.load()

    def set_idle_unload(self, seconds: float) -> None:
        self._idle_unload = seconds
        self._restart_idle_timer()

    async def start(self) -> None:
        """Start the engine without making room for it; doesn't wait until it is ready.

        Raises:
            ModelError: it can't be started.
        """
        async with self._transition:
            self.in_memory = True
            await self._start_engine()

    def load(self, *, on_request: bool = True) -> None:
        """Begin to load the engine, unless it is loaded or being loaded."""
        if self.is_cold:
            self._begin_to_load(on_request)

    def load_for_operator(self) -> None:
        """Begin to load the engine as for a request, also one that has failed for good."""
        if self.is_cold or (self._loading is None and self._backend.failure is not None):
            self._begin_to_load(on_request=True)

    def _begin_to_load(self, on_request: bool) -> None:
        self.loading_on_request = on_request
        self._loading = background.once("model load", self._load)

    async def _load(self) -> None:
        self.load_failure = None
        try:
            async with self._transition:
                if self._backend.failure is not None:
                    await self._stop_whole_engine()
                    self._backend.forget_failure()
                if await self._budget.make_room(self):
                    await self._start_engine()
                else:
                    self.load_failure = "models that are in use take the memory"
        except ModelError as error:
            self.load_failure = str(error)
            logger.error("model not loaded", extra=fields(model=self.name, reason=str(error)))
        finally:
            self._loading = None
            self._on_change()

    async def _start_engine(self) -> None:
        self._load_began = time.monotonic()
        try:
            await self._backend.start(self._backend_changed)
        except BaseException:
            await self._stop_whole_engine()
            raise

    async def _stop_whole_engine(self) -> None:
        """Stop the engine within a load, whoever ends that: stopped by half, it would count as
        loaded, and no request would load it again.
        """
        stopping = background.once("engine stop", self._stop_engine)
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.wait({stopping})
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        await stopping

    def _backend_changed(self) -> None:
        if self._backend.ready and self._load_began is not None:
            self._last_load = time.monotonic() - self._load_began
            self._load_began = None
            self.loading_on_request = False
            self.last_used = time.monotonic()
            self._restart_idle_timer()
        self._on_change()

    async def unload(self, reason: str) -> None:
        """Stop the engine, unless a request holds the model.

        Cancelling this cancels the wait only: the engine is stopped all the same.
        """
        self._unloading = background.once("model unload", partial(self._unload, reason))
        await asyncio.shield(self._unloading)

    async def _unload(self, reason: str) -> None:
        async with self._transition:
            if not self.in_memory or self.in_use:
                return
            logger.info("model unloaded", extra=fields(model=self.name, reason=reason))
            self._stopping = True
            await self._stop_engine()

    async def unload_if_free(self, reason: str) -> bool:
        """Unload the engine, and end a load of it. False: requests hold the model.

        Cancelling this cancels the wait only.
        """
        if self.in_use:
            return False
        before = self._unloads
        self._unloading = background.once("model unload", partial(self._unload_if_free, reason))
        await asyncio.shield(self._unloading)
        return self._unloads > before or not self.in_memory

    async def _unload_if_free(self, reason: str) -> None:
        if (loading := self._loading) is not None:
            loading.cancel()
            await asyncio.wait({loading})
            if self._loading is loading:  # it was cancelled before it had begun
                self._loading = None
            if self.in_use:  # the request that came meanwhile relied on that load
                self.load()
                return
        await self._unload(reason)
        if self.is_cold:
            self.load_failure = None
            self._backend.forget_failure()
            self._on_change()

    async def _stop_engine(self) -> None:
        await self._backend.stop()
        self._unloads += 1
        self._load_began = None
        self.in_memory = self._stopping = False
        self._budget.notify()

    async def stop(self) -> None:
        """Stop the engine for good, even while requests use it. Idempotent."""
        self._cancel_idle_timer()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        async with self._transition:
            await self._stop_engine()
        self._budget.remove(self)

    def _restart_idle_timer(self) -> None:
        self._cancel_idle_timer()
        if self._idle_unload and self.in_memory and not self.in_use:
            left = max(0.0, self.last_used + self._idle_unload - time.monotonic())
            self._idle_timer = asyncio.get_running_loop().call_later(left, self._unload_idle)

    def _unload_idle(self) -> None:
        self._unloading = background.once("model unload", partial(self._unload, "idle"))

    def _cancel_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def not_ready_reason(self) -> str:
        """Why the model can't answer yet, as the beginning of a sentence for the client."""
        if self._loading is not None and not self.in_memory:
            return "The model still waits for memory, which models that are in use take"
        return "The model is still loading"

    def seconds_to_ready(self) -> float | None:
        """Whole seconds until the model can answer, as far as is known; None: it can now."""
        if self._backend.ready:
            return None
        expected = self._last_load
        if expected is None:
            expected = _START_UP + self.memory / _READ_RATE
        if not self.in_memory:
            expected = max(expected, _MIN_ROOM_WAIT)
        elif self._load_began is not None:
            elapsed = time.monotonic() - self._load_began
            # A load that is late is expected to take half as long again.
            expected = max(expected - elapsed, elapsed / 2)
        return float(math.ceil(expected))
