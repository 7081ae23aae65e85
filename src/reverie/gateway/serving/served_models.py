"""The models of one configuration: names, price, limits, and whether each can answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

from reverie.errors import ModelNotFound
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.defaults import completed, defaults_of
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.names import other_spelling
from reverie.gateway.serving.purpose import require_task
from reverie.request import GenerateRequest
from reverie.settings import ModelSettings, Settings
from reverie.store.limits import RateLimits

State = Literal["ready", "loading", "cold", "failed", "down"]


class ServedModel:
    """One model of the configuration: its names, its price and limits, and its deployment.

    ``created`` is the Unix time, in seconds, at which this gateway began to serve it.
    """

    def __init__(self, settings: ModelSettings, deployment: Deployment, created: int) -> None:
        self.settings = settings
        self.name = settings.name
        self.names = (settings.name, *settings.aliases)
        self.deployment = deployment
        self.created = created
        self.price = settings.price.per_token
        limits = settings.limits
        self.limits = RateLimits(limits.rpm, limits.tpm, limits.concurrency)
        """What all callers of the model may use together."""
        self.defaults = defaults_of(settings)

    @property
    def pool(self) -> Pool:
        return self.deployment.pool

    @property
    def state(self) -> State:
        # As their latest probes say, or their operator.
        states = self.pool.states
        if states and all(backend.down or backend.draining for backend in states):
            return "down"
        return "ready" if self.pool.ready else self.deployment.unready_state

    @property
    def available(self) -> bool:
        """True if a request sent now will be answered, if need be once the model is loaded for it.

        False while the model loads at the start: until then requests are better sent elsewhere.
        """
        on_request = self.state == "loading" and self.deployment.loading_on_request
        return on_request or self.state in ("ready", "cold")

    def check(self, request: GenerateRequest) -> GenerateRequest:
        """The request with this model's own defaults; refuse what a backend of it can't honour.

        Raises:
            WrongTask, UnsupportedParameter
        """
        require_task(self.settings, "generate")
        request = completed(request, self.defaults)
        for backend in self.pool.fast.unlike:
            backend.check(request)
        return request


class ServedModels:
    """Every model of one configuration, by name and alias. Immutable.

    Args:
        deployments: by the names of their models.
        before: the models of the previous configuration, whose ``created`` is kept.
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
        named = {name: model for model in self.all for name in model.names}
        self._by_name = {other_spelling(name): model for name, model in named.items()} | named
        self.default = self._by_name[settings.default_model.name]

    def find(self, name: str) -> ServedModel:
        """The model with this name or alias; the default model if ``name`` is empty.

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
