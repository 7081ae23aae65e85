"""The models that are served: their names, their pools, and whether each can answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from reverie.backends.base import Backend
from reverie.errors import ModelNotFound
from reverie.gateway.pool import Pool
from reverie.settings import ModelSettings, Settings

State = Literal["ready", "loading", "failed"]


class ServedModel:
    """One model as clients see it."""

    def __init__(self, settings: ModelSettings, pool: Pool) -> None:
        self.settings = settings
        self.name = settings.name
        self.pool = pool
        self.created = int(time.time())

    @property
    def state(self) -> State:
        if self.pool.ready:
            return "ready"
        return "failed" if self.pool.failure is not None else "loading"


class ServedModels:
    """Every model of the configuration, by name and alias."""

    def __init__(
        self, settings: Settings, backends: Iterable[tuple[ModelSettings, Sequence[Backend]]]
    ) -> None:
        self.all: list[ServedModel] = []
        self._by_name: dict[str, ServedModel] = {}
        for model_settings, model_backends in backends:
            pool = Pool(
                model_settings.name,
                model_backends,
                queue_size=settings.server.queue_size,
                queue_timeout=settings.server.queue_timeout,
            )
            served = ServedModel(model_settings, pool)
            self.all.append(served)
            for name in (model_settings.name, *model_settings.aliases):
                self._by_name[name] = served
        self.default = self._by_name[settings.default_model.name]
        self._changed = asyncio.Event()

    def find(self, name: str) -> ServedModel:
        """The model that a request's ``model`` names; an empty name is the default model.

        Raises:
            ModelNotFound
        """
        if not name:
            return self.default
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(model.name for model in self.all)
            raise ModelNotFound(
                f"There is no such model here. Models: {known}.", param="model"
            ) from None

    async def start(self) -> None:
        """Start every backend; none is waited for.

        Raises:
            ModelError: a backend can never become ready as it is configured.
        """
        for model in self.all:
            for backend in model.pool.backends:
                await backend.start(functools.partial(self._on_change, model.pool))

    def _on_change(self, pool: Pool) -> None:
        pool.wake()
        self._changed.set()

    async def wait_settled(self) -> bool:
        """Wait until the default model can answer (True), or no model ever will (False)."""
        while True:
            self._changed.clear()
            if self.default.state == "ready":
                return True
            if all(model.state == "failed" for model in self.all):
                return False
            await self._changed.wait()

    async def stop(self) -> None:
        """Stop every backend. Idempotent."""
        await asyncio.gather(
            *(backend.stop() for model in self.all for backend in model.pool.backends),
            return_exceptions=True,
        )
