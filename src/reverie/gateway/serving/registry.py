"""What is served now, and how another configuration takes its place.

Rule: a request takes a model from here once, and holds its service until it ends. So whatever
takes the model's place meanwhile, the request goes on with what it began with.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping, Sequence

from reverie.backends.base import Backend
from reverie.backends.build import backends_of, build_backends
from reverie.errors import ConfigurationError, ModelError
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.memory_budget import MIB, MemoryBudget, shortage
from reverie.gateway.serving.served_models import ServedModels
from reverie.settings import ModelSettings, Settings
from reverie.threads import in_daemon


class ModelRegistry:
    """The configuration that is in force, and its models.

    Args:
        environ: holds the backends' keys, under the names that are configured.
        backends: replaces what the settings describe.

    Raises:
        ModelError: a model that is to run here isn't on disk.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        backends: Sequence[tuple[ModelSettings, Sequence[Backend]]] | None = None,
    ) -> None:
        self.settings = settings
        self._environ = environ
        self._changed = asyncio.Event()
        self._memory = MemoryBudget(settings.server.memory_budget_mib * MIB)
        if backends is None:
            backends = build_backends(settings, environ)
        self._deployments = {
            model.name: self._deployment(model, behind, settings) for model, behind in backends
        }
        self._retired: set[Deployment] = set()
        self.models = ServedModels(settings, self._deployments)

    def _deployment(
        self, model: ModelSettings, backends: Sequence[Backend], settings: Settings
    ) -> Deployment:
        return Deployment(model, backends, settings.server, self._memory, self._changed.set)

    async def start(self) -> None:
        """Start every backend that isn't to be loaded on demand; none is waited for.

        Raises:
            ModelError: a backend can never become ready as it is configured.
            ConfigurationError: the models don't fit into the memory that they may take.
        """
        for deployment in self._deployments.values():
            await deployment.prepare()
        if problems := _shortage(self.settings, self._deployments):
            raise ConfigurationError(problems)
        for deployment in self._deployments.values():
            await deployment.start()

    async def wait_settled(self) -> bool:
        """Wait until the default model can answer (True), or no model ever will (False)."""
        while True:
            self._changed.clear()
            if self.models.default.state in ("ready", "cold"):
                return True
            if all(model.state == "failed" for model in self.models.all):
                return False
            await self._changed.wait()

    async def change(self, settings: Settings) -> None:
        """Serve what ``settings`` say from now on, or go on as before if they can't be served.

        Services that they leave as they are go on. The others are stopped once their last request
        has ended. Not to be called again before it returns.

        Raises:
            ConfigurationError: with what is wrong with each model.
        """
        kept = {
            model.name: deployment
            for model in settings.models
            if (deployment := self._deployments.get(model.name)) is not None
            and deployment.suits(model)
        }
        fresh = await self._prepare_missing(settings, kept)
        # From here to the end nothing waits: every request sees all of it, or nothing.
        deployments = {**kept, **fresh}
        gone = [old for name, old in self._deployments.items() if deployments.get(name) is not old]
        self._memory.budget = settings.server.memory_budget_mib * MIB
        for model in settings.models:
            if model.name in kept:
                kept[model.name].adapt(model, settings.server)
        self._deployments = deployments
        self.settings, self.models = settings, ServedModels(settings, deployments, self.models)
        for deployment in gone:
            self._retired.add(deployment)
            deployment.retire(self._retired.discard)
        for deployment in fresh.values():
            deployment.warm_up()
        self._changed.set()
        self._memory.changed()

    async def _prepare_missing(
        self, settings: Settings, kept: Mapping[str, Deployment]
    ) -> dict[str, Deployment]:
        """Build and prepare what isn't there yet: all of it, or none.

        Raises:
            ConfigurationError
        """
        fresh: dict[str, Deployment] = {}
        problems: list[str] = []
        try:
            for model in settings.models:
                if model.name in kept:
                    continue
                try:
                    # In a thread, since it looks for the model's file.
                    build = functools.partial(backends_of, model, settings.server, self._environ)
                    backends = await in_daemon(build)
                    fresh[model.name] = self._deployment(model, backends, settings)
                    await fresh[model.name].prepare()
                except ModelError as error:
                    problems.append(f"model {model.name}: {error}")
            if problems := problems or _shortage(settings, {**kept, **fresh}):
                raise ConfigurationError(problems)
        except BaseException:
            await asyncio.gather(*(deployment.stop() for deployment in fresh.values()))
            raise
        return fresh

    async def stop(self) -> None:
        """Stop every backend, those of earlier configurations too. Idempotent."""
        deployments = [*self._deployments.values(), *self._retired]
        await asyncio.gather(
            *(deployment.stop() for deployment in deployments), return_exceptions=True
        )


def _shortage(settings: Settings, deployments: Mapping[str, Deployment]) -> list[str]:
    """Why the models can't do with the memory that they may take; empty: they can."""
    needs = {
        name: deployment.on_demand.memory
        for name, deployment in deployments.items()
        if deployment.on_demand is not None
    }
    warm = {model.name for model in settings.models if model.warm}
    return shortage(settings.server.memory_budget_mib * MIB, needs, warm)
