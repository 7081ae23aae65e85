"""The models that are served now, and how a new configuration replaces them.

Rule: a request looks its model up once, and holds the model's deployment until it ends. So it ends
with what it began with, whatever replaces the model meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from reverie.backends.base import Backend
from reverie.backends.build import backends_of
from reverie.cluster.link import Link
from reverie.errors import ConfigurationError, ModelError
from reverie.gateway.serving.cluster import Cluster
from reverie.gateway.serving.cluster_deployment import ClusterDeployment
from reverie.gateway.serving.defaults import require_honoured
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.memory_budget import MIB, MemoryBudget, budget_problems
from reverie.gateway.serving.served_models import ServedModels
from reverie.settings import ClusterSettings, ModelSettings, Settings
from reverie.threads import run_in_daemon_thread


class ModelRegistry:
    """The configuration in force, and its models.

    Args:
        environ: holds the backends' keys, in the variables that the settings name.
        backends: used instead of those that the settings describe.
        link: makes the link to the cluster, if the settings name one.

    Raises:
        ModelError: a model that runs here isn't on disk, or one is to run in a cluster and there is
            none.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        backends: Sequence[tuple[ModelSettings, Sequence[Backend]]] | None = None,
        link: Callable[[ClusterSettings], Link] | None = None,
    ) -> None:
        self.settings = settings
        self.cluster: Cluster | None = None
        """The cluster that some models run in; None: there is none."""
        if settings.cluster is not None and link is not None:
            self.cluster = Cluster(settings.cluster, link(settings.cluster))
        self._environ = environ
        self._changed = asyncio.Event()
        self._budget = MemoryBudget(settings.server.memory_budget_mib * MIB)
        if backends is None:
            backends = [(model, self._build(model, settings)) for model in settings.models]
        self._deployments = {
            model.name: self._deploy(model, its_backends, settings)
            for model, its_backends in backends
        }
        self._draining: set[Deployment] = set()
        self.models = ServedModels(settings, self._deployments)

    def _build(self, model: ModelSettings, settings: Settings) -> Sequence[Backend]:
        """A model's backends, none of them started.

        Raises:
            ModelError: it should run here and isn't on disk.
        """
        if model.engines:
            return ()  # they come and go
        return backends_of(model, settings.server, self._environ)

    def _deploy(
        self, model: ModelSettings, backends: Sequence[Backend], settings: Settings
    ) -> Deployment:
        if not model.engines:
            require_honoured(model, backends)
            return Deployment(model, backends, settings.server, self._budget, self._changed.set)
        if self.cluster is None:
            raise ModelError(
                "engines: this server has no cluster, to which it connects when it starts: restart "
                "it with [cluster] in its configuration"
            )
        deployment = ClusterDeployment(
            model, settings.server, self._budget, self.cluster, self._changed.set
        )
        require_honoured(model, deployment.pool.examples)
        return deployment

    async def start(self) -> None:
        """Start every backend except cold engines; doesn't wait until any is ready.

        Raises:
            ModelError: a backend can never become ready as it is configured.
            ConfigurationError: the models don't fit into ``server.memory_budget_mib``.
        """
        for deployment in self._deployments.values():
            await deployment.prepare()
        if problems := _budget_problems(self.settings, self._deployments):
            raise ConfigurationError(problems)
        for deployment in self._deployments.values():
            await deployment.start_if_warm()
        if self.cluster is not None:
            specs = await self.cluster.specs_of(self.settings.models)
            await self.cluster.start()
            self.cluster.deploy(self.settings.models, specs)

    async def wait_settled(self) -> bool:
        """Wait until the default model can answer (True), or no model ever will (False)."""
        while True:
            self._changed.clear()
            default = self.models.default
            if default.state in ("ready", "cold", "down"):
                return True
            if default.state == "failed" and default.pool.failure is None:
                return True  # its cluster may get over it
            if all(model.pool.failure is not None for model in self.models.all):
                return False
            await self._changed.wait()

    async def apply(self, settings: Settings) -> None:
        """Serve what ``settings`` say from now on, or change nothing if they can't be served.

        Deployments that the settings leave as they are run on. The others stop once their last
        request has ended. Must not be called again before it returns.

        Raises:
            ConfigurationError: with what is wrong, a sentence for each model.
        """
        kept = self._kept_by(settings)
        added = await self._prepare_missing(settings, kept)
        specs = {} if self.cluster is None else await self.cluster.specs_of(settings.models)
        # From here on there is no await: a request sees all of the change, or none of it.
        deployments = {**kept, **added}
        replaced = [
            old for name, old in self._deployments.items() if deployments.get(name) is not old
        ]
        self._budget.limit = settings.server.memory_budget_mib * MIB
        for model in settings.models:
            if model.name in kept:
                kept[model.name].update(model, settings.server)
        self._deployments = deployments
        self.settings, self.models = settings, ServedModels(settings, deployments, self.models)
        if self.cluster is not None:
            self.cluster.deploy(settings.models, specs)
        for deployment in replaced:
            self._draining.add(deployment)
            deployment.drain(self._draining.discard)
        for deployment in added.values():
            deployment.load_if_warm()
        self._changed.set()
        self._budget.notify()

    async def check(self, settings: Settings) -> None:
        """Check that ``apply`` could serve these settings, as far as can be told without a start.

        Raises:
            ConfigurationError: with what is wrong, a sentence for each model.
        """
        added = await self._prepare_missing(settings, self._kept_by(settings), start=False)
        await _stop_all(added.values())

    def _kept_by(self, settings: Settings) -> dict[str, Deployment]:
        """The deployments that can serve these settings as they are."""
        return {
            model.name: deployment
            for model in settings.models
            if (deployment := self._deployments.get(model.name)) is not None
            and deployment.can_serve(model)
        }

    async def _prepare_missing(
        self, settings: Settings, kept: Mapping[str, Deployment], *, start: bool = True
    ) -> dict[str, Deployment]:
        """Build and prepare a deployment for each model that isn't ``kept``: all, or none.

        Args:
            start: False prepares engines that run here alone, which only checks them.

        Raises:
            ConfigurationError: with what is wrong, a sentence for each model.
        """
        added: dict[str, Deployment] = {}
        problems: list[str] = []
        try:
            for model in settings.models:
                try:
                    if model.name in kept:
                        require_honoured(model, kept[model.name].pool.examples)
                        continue
                    # In a thread, since it looks for the model's file on disk.
                    build = functools.partial(self._build, model, settings)
                    backends = await run_in_daemon_thread(build)
                    added[model.name] = self._deploy(model, backends, settings)
                    if start or added[model.name].on_demand is not None:
                        await added[model.name].prepare()
                except ModelError as error:
                    problems.append(f"model {model.name}: {error}")
            if problems := problems or _budget_problems(settings, {**kept, **added}):
                raise ConfigurationError(problems)
        except BaseException:
            await _stop_all(added.values())
            raise
        return added

    async def stop(self) -> None:
        """Stop every backend, also of deployments that are still draining. Idempotent."""
        if self.cluster is not None:
            await self.cluster.stop()
        deployments = [*self._deployments.values(), *self._draining]
        await asyncio.gather(
            *(deployment.stop() for deployment in deployments), return_exceptions=True
        )


async def _stop_all(deployments: Iterable[Deployment]) -> None:
    await asyncio.gather(*(deployment.stop() for deployment in deployments))


def _budget_problems(settings: Settings, deployments: Mapping[str, Deployment]) -> list[str]:
    """Why the models can never fit into ``server.memory_budget_mib``; empty: they can."""
    needs = {
        name: deployment.on_demand.memory
        for name, deployment in deployments.items()
        if deployment.on_demand is not None
    }
    warm = {model.name for model in settings.models if model.warm}
    return budget_problems(settings.server.memory_budget_mib * MIB, needs, warm)
