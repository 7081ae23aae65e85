"""The life of one model's backends: started, held by requests, stopped after the last of them.

Several configurations in a row may share a service: it goes on for as long as what it was built
from stays the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from reverie.backends.base import Backend
from reverie.backends.embedded import EmbeddedBackend
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.gateway.serving.on_demand import OnDemandModel
from reverie.settings import ModelSettings, ServerSettings

_NOT_BUILT_FROM = ("aliases", "default", "price", "limits", "warm", "idle_unload")
"""What may change of a model while its backends go on."""


class Deployment:
    """A pool of backends, for as long as anybody needs it.

    Args:
        memory: what the engines here share.
        on_change: called whenever a backend became ready, or is no longer.
    """

    def __init__(
        self,
        model: ModelSettings,
        backends: Sequence[Backend],
        server: ServerSettings,
        memory: MemoryBudget,
        on_change: Callable[[], None],
    ) -> None:
        self.model = model
        self.pool = Pool(
            model.name,
            backends,
            queue_size=server.queue_size,
            queue_timeout=server.queue_timeout,
        )
        self._on_change = on_change
        self.on_demand: OnDemandModel | None = None
        """The engine here, if it is one."""
        for backend in backends:
            if isinstance(backend, EmbeddedBackend):
                self.on_demand = OnDemandModel(
                    model.name,
                    backend,
                    memory,
                    idle_unload=model.idle_unload,
                    on_change=self._changed,
                )
                self.pool.seconds_to_ready = self.on_demand.seconds_to_ready
                self.pool.not_ready_reason = self.on_demand.not_ready_reason
        self._holders = 0
        self._retired = False
        self._on_stopped: Callable[[Deployment], None] = lambda _: None
        self._stopping: asyncio.Task[None] | None = None

    def suits(self, model: ModelSettings) -> bool:
        """Whether it is what ``model`` would be built to, and not beyond help."""
        same = all(
            getattr(model, key) == getattr(self.model, key)  # of backends, with their keys
            for key in ModelSettings.model_fields
            if key not in _NOT_BUILT_FROM
        )
        return same and self.pool.failure is None

    def adapt(self, model: ModelSettings, server: ServerSettings) -> None:
        """Take over what can change while it goes on."""
        if self.on_demand is not None:
            self.on_demand.set_idle_unload(model.idle_unload)
            if model.warm and not self.model.warm:
                self.on_demand.load(on_request=False)
        self.model = model
        self.pool.bound(queue_size=server.queue_size, queue_timeout=server.queue_timeout)
        for backend in self.pool.backends:
            backend.set_timeouts(first_token=server.first_token_timeout, stall=server.stall_timeout)

    async def prepare(self) -> None:
        """Check the engine here; start all other backends. None is waited for.

        Raises:
            ModelError: a backend can never become ready as it is configured.
        """
        if self.on_demand is not None:
            await self.on_demand.check()
            return
        for backend in self.pool.backends:
            await backend.start(self._changed)

    async def start(self) -> None:
        """Start the engine here, if it is one that is to be warm. Its memory is free for certain.

        Raises:
            ModelError: it can't be started.
        """
        if self.on_demand is not None and self.model.warm:
            await self.on_demand.start()

    def warm_up(self) -> None:
        """Begin to load the engine here, if it is one that is to be warm and there is memory."""
        if self.on_demand is not None and self.model.warm:
            self.on_demand.load(on_request=False)

    def _changed(self) -> None:
        self.pool.wake()
        self._on_change()

    def use(self) -> None:
        """Begin to load the engine here, if it is cold: a request is about to wait for a slot."""
        if self.on_demand is not None:
            self.on_demand.use()

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Keep the backends until the end of what is inside."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Keep the backends until ``release``."""
        self._holders += 1
        if self.on_demand is not None:
            self.on_demand.hold()

    def release(self) -> None:
        self._holders -= 1
        if self.on_demand is not None:
            self.on_demand.release()
        if self._retired and not self._holders:
            self._begin_to_stop()

    def retire(self, on_stopped: Callable[[Deployment], None]) -> None:
        """Stop once nobody holds it, and say so. Nobody may hold it anew."""
        self._on_stopped = on_stopped
        self._retired = True
        if not self._holders:
            self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.create_task(self.stop())
        self._stopping.add_done_callback(lambda _: self._on_stopped(self))

    async def stop(self) -> None:
        """Stop every backend. Idempotent."""
        if self.on_demand is not None:
            await self.on_demand.stop()
            return
        await asyncio.gather(
            *(backend.stop() for backend in self.pool.backends), return_exceptions=True
        )
