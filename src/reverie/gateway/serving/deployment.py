"""One model's backends, from their start until the last request that uses them has ended.

A deployment outlives a change of configuration as long as nothing changes that its backends were
built from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeAlias

from reverie import background
from reverie.backends.base import Backend
from reverie.backends.embedded import EmbeddedBackend
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.gateway.serving.on_demand import OnDemandModel
from reverie.gateway.serving.prompt_sizes import PromptSizes
from reverie.settings import ModelSettings, ServerSettings

UnreadyState: TypeAlias = Literal["loading", "cold", "failed", "down"]

_CHANGEABLE = frozenset(
    ("aliases", "default", "defaults", "price", "limits", "warm", "idle_unload")
)
"""The keys of a model that can change while its backends run on."""


class Deployment:
    """A pool of backends, and who holds it.

    Args:
        budget: the memory that all embedded engines share.
        on_change: called whenever a backend has become ready, or is no longer ready.
        examples: as in ``Pool``.
    """

    def __init__(
        self,
        model: ModelSettings,
        backends: Sequence[Backend],
        server: ServerSettings,
        budget: MemoryBudget,
        on_change: Callable[[], None],
        examples: Sequence[Backend] | None = None,
    ) -> None:
        self.model = model
        self.pool = Pool(
            model.name,
            backends,
            queue_size=server.queue_size,
            queue_timeout=server.queue_timeout,
            examples=examples,
        )
        self.sizes = PromptSizes(self.pool)
        self.vector_length: int | None = None
        """Numbers in a vector of a model that embeds, once one was made."""
        self._on_change = on_change
        self.on_demand: OnDemandModel | None = None
        """The embedded engine; None if the model is served by other servers."""
        for backend in backends:
            if isinstance(backend, EmbeddedBackend):
                self.on_demand = self._make_on_demand(backend, budget)
                self.pool.seconds_to_ready = self.on_demand.seconds_to_ready
                self.pool.not_ready_reason = self.on_demand.not_ready_reason
        self._holders = 0
        self._draining = False
        self._on_stopped: Callable[[Deployment], None] = lambda _: None
        self._stopping: asyncio.Task[None] | None = None

    def _make_on_demand(self, backend: EmbeddedBackend, budget: MemoryBudget) -> OnDemandModel:
        return OnDemandModel(
            self.model.name,
            backend,
            budget,
            idle_unload=self.model.idle_unload,
            on_change=self._backend_changed,
        )

    @property
    def unready_state(self) -> UnreadyState:
        """How the model stands while no backend of it is ready."""
        if self.pool.failure is not None:
            return "failed"
        return "cold" if self.on_demand is not None and self.on_demand.is_cold else "loading"

    @property
    def loading_on_request(self) -> bool:
        """True if the model, if it loads, does so because somebody asked for it."""
        return self.on_demand is not None and self.on_demand.loading_on_request

    @property
    def operator_reason(self) -> str:
        """Why no backend is ready yet, as the beginning of a sentence for the operator."""
        return self.pool.not_ready_reason()

    def can_serve(self, model: ModelSettings) -> bool:
        """True if the backends are those that ``model`` asks for, and haven't failed for good."""
        unchanged = all(
            getattr(model, key) == getattr(self.model, key)  # of backends, with their keys
            for key in ModelSettings.model_fields
            if key not in _CHANGEABLE
        )
        return unchanged and self.pool.failure is None

    def update(self, model: ModelSettings, server: ServerSettings) -> None:
        """Apply new settings, of those that can change while the backends run on."""
        if self.on_demand is not None:
            self.on_demand.set_idle_unload(model.idle_unload)
            if model.warm and not self.model.warm:
                self.on_demand.load(on_request=False)
        self.model = model
        self.pool.bound(queue_size=server.queue_size, queue_timeout=server.queue_timeout)
        for backend in self.pool.backends:
            backend.set_timeouts(first_token=server.first_token_timeout, stall=server.stall_timeout)

    async def prepare(self) -> None:
        """Check the embedded engine, or start the other backends; doesn't wait until any is ready.

        Raises:
            ModelError: a backend can never become ready as it is configured.
        """
        if self.on_demand is not None:
            await self.on_demand.check()
            return
        for backend in self.pool.backends:
            await backend.start(partial(self._probed, backend))

    async def start_if_warm(self) -> None:
        """Start an embedded engine that is to be warm, when its memory is known to be free.

        Raises:
            ModelError: it can't be started.
        """
        if self.on_demand is not None and self.model.warm:
            await self.on_demand.start()

    def load_if_warm(self) -> None:
        """Begin to load an embedded engine that is to be warm, as soon as there is memory."""
        if self.on_demand is not None and self.model.warm:
            self.on_demand.load(on_request=False)

    def _backend_changed(self) -> None:
        self.pool.wake()
        self._on_change()

    def _probed(self, backend: Backend) -> None:
        """Note that a backend has started, or was probed, which mostly changes nothing."""
        self.pool.backend_changed(backend)
        self._on_change()

    def load_for_request(self) -> None:
        """Load the embedded engine if need be: a request is about to wait for a slot."""
        if self.on_demand is not None and not self.pool.drained:
            self.on_demand.load_for_request()

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Keep the backends running within the ``with`` block."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Keep the backends running until ``release``."""
        self._holders += 1
        if self.on_demand is not None:
            self.on_demand.hold()

    def release(self) -> None:
        self._holders -= 1
        if self.on_demand is not None:
            self.on_demand.release()
        if self._draining and not self._holders:
            self._begin_to_stop()

    def drain(self, on_stopped: Callable[[Deployment], None]) -> None:
        """Stop once no request holds the backends, then call ``on_stopped``.

        The caller sees to it that no further request takes hold.
        """
        self._on_stopped = on_stopped
        self._draining = True
        if not self._holders:
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._stopping = background.once("backend stop", self.stop)
        self._stopping.add_done_callback(lambda _: self._on_stopped(self))

    async def stop(self) -> None:
        """Stop every backend. Idempotent."""
        if self.on_demand is not None:
            await self.on_demand.stop()
            return
        await asyncio.gather(
            *(backend.stop() for backend in self.pool.backends), return_exceptions=True
        )
