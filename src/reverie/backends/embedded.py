"""A model that runs here: the llama.cpp child of ``runner``, reached over its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from reverie.backends.http import HttpBackend
from reverie.errors import BackendError
from reverie.events import Event
from reverie.request import GenerateRequest
from reverie.runner.supervisor import Runner
from reverie.settings import BackendSettings, ModelSettings

_NOTICE_TIMEOUT = 0.5
"""Seconds in which the supervisor notices the death of an engine whose socket just failed."""


class EmbeddedBackend:
    """One supervised engine.

    Args:
        model: the GGUF file.
        first_token_timeout, stall_timeout: seconds, as in ``ServerSettings``.
    """

    recovers = True

    def __init__(
        self,
        settings: ModelSettings,
        model: Path,
        *,
        first_token_timeout: float,
        stall_timeout: float,
    ) -> None:
        self.name = "embedded"
        self.slots = settings.slots
        self.runner = Runner(settings.name, model, settings)
        self._http = HttpBackend(
            self.name,
            BackendSettings(url="http://engine/v1", kind="llamacpp"),
            model=settings.name,
            first_token_timeout=first_token_timeout,
            stall_timeout=stall_timeout,
            socket=lambda: self.runner.socket,
        )

    @property
    def ready(self) -> bool:
        return self.runner.state == "ready"

    @property
    def capacity(self) -> int:
        """llama.cpp breaks off every running request when their tokens exceed this together."""
        return self.runner.kv_tokens

    @property
    def context(self) -> int:
        return self.runner.context or self.runner.expected_context

    @property
    def failure(self) -> str | None:
        return self.runner.failure

    def check(self, request: GenerateRequest) -> None:
        self._http.check(request)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Event], None]:
        try:
            async with aclosing(self._http.generate(request)) as batches:
                async for batch in batches:
                    yield batch
        except BackendError:
            # Most likely it has just died. Once that is known, ``ready`` says so, and whoever
            # tries again waits for the restart instead of running into the same socket.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NOTICE_TIMEOUT):
                    while self.ready:
                        await self.runner.changed()
            raise

    async def start(self, on_change: Callable[[], None]) -> None:
        await self.runner.start(on_change)
        await self._http.start(on_change)

    async def stop(self) -> None:
        await self._http.stop()
        await self.runner.stop()
