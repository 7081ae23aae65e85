"""The backend for a model that runs here: a llama.cpp child process, over its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from reverie.backends.base import Health, Take
from reverie.backends.own_engine import OwnEngine
from reverie.errors import BackendError, BackendTimeout
from reverie.request import GenerateRequest
from reverie.runner.supervisor import Runner, State
from reverie.settings import BackendSettings, ModelSettings
from reverie.tasks import R, TaskRequest

_NOTICE_TIMEOUT = 0.5
"""Seconds within which the supervisor notices that an engine whose socket failed has died."""


class Supervisor(Protocol):
    """What keeps the engine running: here (``Runner``), or in the parent of this process."""

    memory: int
    context: int | None
    expected_context: int
    kv_tokens: int
    failure: str | None

    @property
    def state(self) -> State: ...

    @property
    def socket(self) -> Path: ...

    async def check(self) -> None: ...

    async def start(self, on_change: Callable[[], None]) -> None: ...

    async def changed(self) -> None: ...

    async def check_alive(self) -> bool: ...

    def forget_failure(self) -> None: ...

    async def stop(self) -> None: ...


class EmbeddedBackend(OwnEngine):
    """One supervised engine process.

    Args:
        model: the GGUF file.
        first_token_timeout, stall_timeout: seconds, as in ``ServerSettings``.
        runner: keeps it running, if another process does.
    """

    kind = "embedded"
    url = ""
    recovers = True
    health: Health | None = None  # never probed: its supervisor watches it

    def __init__(
        self,
        settings: ModelSettings,
        model: Path,
        *,
        first_token_timeout: float,
        stall_timeout: float,
        runner: Supervisor | None = None,
    ) -> None:
        super().__init__(
            "embedded",
            settings,
            BackendSettings(url="http://engine/v1", kind="llamacpp"),
            first_token_timeout=first_token_timeout,
            stall_timeout=stall_timeout,
            socket=lambda: self.runner.socket,
        )
        self.slots = settings.slots
        self.runner: Supervisor = runner or Runner(settings.name, model, settings)

    @property
    def ready(self) -> bool:
        return self.runner.state == "ready"

    @property
    def memory(self) -> int:
        """Estimated bytes that the engine needs; known after ``check_engine``."""
        return self.runner.memory

    @property
    def capacity(self) -> int | None:
        """llama.cpp breaks off all running generations when their tokens together exceed this."""
        return self.runner.kv_tokens if self._generates else None

    @property
    def context(self) -> int:
        return self.runner.context or self.runner.expected_context

    @property
    def failure(self) -> str | None:
        return self.runner.failure

    def probe_soon(self) -> None:
        """Does nothing: the supervisor watches the engine all the time."""

    async def run(self, request: TaskRequest[R]) -> R:
        async with self._failing_with_its_process():
            return await super().run(request)

    async def generate(self, request: GenerateRequest, take: Take) -> None:
        async with self._failing_with_its_process():
            await super().generate(request, take)

    @asynccontextmanager
    async def _failing_with_its_process(self) -> AsyncGenerator[None, None]:
        """Let a failure in here out only once the supervisor has noticed what the process did."""
        try:
            yield
        except BackendTimeout as error:
            if await self.runner.check_alive():
                raise
            # It is being replaced. A retry waits for that instead of another timeout.
            raise BackendError(
                "The model's engine hung. Try again.", reason="no sign of life"
            ) from error
        except BackendError:
            # Most likely it has just died. Wait until ``ready`` says so, so that a retry waits for
            # the restart instead of failing on the same socket.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NOTICE_TIMEOUT):
                    while self.ready:
                        await self.runner.changed()
            raise

    async def check_engine(self) -> None:
        """Check that model and engine are usable, without starting them.

        Raises:
            ModelError: one of them isn't.
        """
        await self.runner.check()

    async def start(self, on_change: Callable[[], None]) -> None:
        await self.runner.start(on_change)
        await self._http.start(on_change)

    async def reconnect(self) -> None:
        """Ask the engine on another socket from now on: it was loaded anew, by another process."""
        await self._http.stop()
        await self._http.start(lambda: None)

    def forget_failure(self) -> None:
        """Let the engine be started again though it failed for good. It must be stopped."""
        self.runner.forget_failure()

    async def stop(self) -> None:
        await self._http.stop()
        await self.runner.stop()
