"""The models that are served: their names, their pools, and whether each can answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

from reverie.errors import ModelNotFound
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.terms import Terms
from reverie.settings import ModelSettings, Settings

State = Literal["ready", "loading", "cold", "failed"]


class ServedModel:
    """One model as clients see it."""

    def __init__(self, settings: ModelSettings, deployment: Deployment, created: int) -> None:
        self.settings = settings
        self.name = settings.name
        self.deployment = deployment
        self.terms = Terms(settings)
        self.created = created

    @property
    def pool(self) -> Pool:
        return self.deployment.pool

    @property
    def state(self) -> State:
        if self.pool.ready:
            return "ready"
        if self.pool.failure is not None:
            return "failed"
        on_demand = self.deployment.on_demand
        return "cold" if on_demand is not None and on_demand.cold else "loading"

    @property
    def available(self) -> bool:
        """Whether requests are answered, if only once they have had the model loaded."""
        on_demand = self.deployment.on_demand
        on_request = on_demand is not None and on_demand.on_request
        return self.state in ("ready", "cold") or (self.state == "loading" and on_request)


class ServedModels:
    """Every model of one configuration, by name and alias. It doesn't change.

    Args:
        services: by the names of their models.
        before: those of the configuration before, if there was one.
    """

    def __init__(
        self,
        settings: Settings,
        deployments: Mapping[str, Deployment],
        before: ServedModels | None = None,
    ) -> None:
        now = int(time.time())
        known = {} if before is None else {model.name: model.created for model in before.all}
        self.all: list[ServedModel] = [
            ServedModel(model, deployments[model.name], known.get(model.name, now))
            for model in settings.models
        ]
        self._by_name = {
            name: model for model in self.all for name in (model.name, *model.settings.aliases)
        }
        self.default = self._by_name[settings.default_model.name]

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
