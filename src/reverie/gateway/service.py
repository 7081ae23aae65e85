"""The life of one model's backends: started, held by requests, stopped after the last of them.

Several configurations in a row may share a service: it goes on for as long as what it was built
from stays the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from reverie.backends.base import Backend
from reverie.gateway.pool import Pool
from reverie.settings import ModelSettings, ServerSettings

_NOT_BUILT_FROM = ("aliases", "default", "price", "limits")
"""What may change of a model while its backends go on."""


class Service:
    """A pool of backends, for as long as anybody needs it."""

    def __init__(
        self, model: ModelSettings, backends: Sequence[Backend], server: ServerSettings
    ) -> None:
        self._model = model
        self.pool = Pool(
            model.name,
            backends,
            queue_size=server.queue_size,
            queue_timeout=server.queue_timeout,
        )
        self._holders = 0
        self._retired = False
        self._on_stopped: Callable[[Service], None] = lambda _: None
        self._stopping: asyncio.Task[None] | None = None

    def suits(self, model: ModelSettings) -> bool:
        """Whether it is what ``model`` would be built to, and not beyond help."""
        same = self._model.model_dump(exclude={*_NOT_BUILT_FROM}) == model.model_dump(
            exclude={*_NOT_BUILT_FROM}
        )
        return same and self.pool.failure is None

    def adapt(self, server: ServerSettings) -> None:
        """Take over what can change while it goes on."""
        self.pool.bound(queue_size=server.queue_size, queue_timeout=server.queue_timeout)
        for backend in self.pool.backends:
            backend.set_timeouts(first_token=server.first_token_timeout, stall=server.stall_timeout)

    async def start(self, on_change: Callable[[], None]) -> None:
        """Start every backend; none is waited for.

        ``on_change`` is called whenever one became ready, or is no longer.

        Raises:
            ModelError: a backend can never become ready as it is configured.
        """

        def changed() -> None:
            self.pool.wake()
            on_change()

        for backend in self.pool.backends:
            await backend.start(changed)

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

    def release(self) -> None:
        self._holders -= 1
        if self._retired and not self._holders:
            self._begin_to_stop()

    def retire(self, on_stopped: Callable[[Service], None]) -> None:
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
        await asyncio.gather(
            *(backend.stop() for backend in self.pool.backends), return_exceptions=True
        )
