"""``/admin/v1/models``: what each model is and how it stands; its engine is loaded and unloaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from reverie import log
from reverie.correlation import request_id
from reverie.errors import Conflict, InvalidRequest
from reverie.gateway.scheduling.description import (
    add_loads,
    describe_backend,
    waiting_elsewhere,
)
from reverie.gateway.serving.on_demand import OnDemandModel
from reverie.gateway.serving.served_models import ServedModel, ServedModels
from reverie.gateway.siblings import Siblings
from reverie.http.admin.router import NO_PARAMETERS, Body, admin_router
from reverie.http.operations.errors import not_found
from reverie.models.reference import shown
from reverie.money import price_to_json
from reverie.text import without_folders

logger = logging.getLogger("reverie.admin")


class NamedModel(Body):
    """One model."""

    model: str = Field(min_length=1)
    """Its name, or an alias."""


_OF_ONE: Any = {
    "dependencies": NO_PARAMETERS,
    "responses": not_found("There is no such model"),
}


def routes(models: Callable[[], ServedModels], siblings: Siblings) -> APIRouter:
    """The routes.

    Args:
        models: returns the models that are served at the moment.
    """
    router = admin_router()

    @router.get("/models", summary="The models, and how each stands", dependencies=NO_PARAMETERS)
    async def list_models() -> dict[str, Any]:
        served = models()
        told = await siblings.ask("loads")
        data = [_describe(model, served, told) for model in served.all]
        return {"object": "list", "data": data}

    @router.post(
        "/models/load", summary="Begin to load a model that runs here", status_code=202, **_OF_ONE
    )
    async def load(asked: NamedModel) -> dict[str, Any]:
        model, engine = find(asked)
        engine.load_for_operator()
        logger.info("model load asked for", extra=log.fields(id=request_id(), model=model.name))
        return _describe(model, models(), await siblings.ask("loads"))

    @router.post(
        "/models/unload",
        summary="Unload a model that runs here, until the next request for it",
        **_OF_ONE,
    )
    async def unload(asked: NamedModel) -> dict[str, Any]:
        model, engine = find(asked)
        if not await engine.unload_if_free("an operator"):
            held = max(1, engine.holders)  # it may just have ended
            hold = "1 request holds" if held == 1 else f"{held} requests hold"
            raise Conflict(
                f"{hold} the model. Wait until no request does, or cancel them, and try again.",
                param="model",
            )
        return _describe(model, models(), await siblings.ask("loads"))

    def find(asked: NamedModel) -> tuple[ServedModel, OnDemandModel]:
        model = models().find(asked.model)
        engine = model.deployment.on_demand
        if engine is None:
            itself = "runs on other servers, which load and unload it themselves"
            if model.settings.engines:
                itself = "runs in the cluster: its engines bounds say how many run, and when"
            raise InvalidRequest(f"{model.name} {itself}.", param="model")
        return model, engine

    return router


def _describe(
    model: ServedModel, served: ServedModels, told: Sequence[bytes] = ()
) -> dict[str, Any]:
    """A model, with no secret and no path.

    Args:
        told: what runs and waits in other processes.
    """
    backends = [describe_backend(model.name, state) for state in model.pool.states]
    add_loads(backends, told)
    settings, pool = model.settings, model.pool
    engine = model.deployment.on_demand
    limits = model.limits
    contexts = [backend.context for backend in pool.backends or pool.examples]
    return {
        "name": model.name,
        "aliases": list(settings.aliases),
        "task": settings.task,
        "default": model.name == served.default.name,
        "state": model.state,
        "reason": _reason(model),
        "seconds_to_ready": None if pool.ready else pool.seconds_to_ready(),
        "source": settings.source and shown(settings.source),
        "runs_here": engine is not None,
        "engines": settings.engines or None,
        "warm": engine is not None and settings.warm,
        "idle_unload": settings.idle_unload or None,
        "memory_bytes": engine and engine.estimated_memory,
        "context": max(filter(None, contexts), default=None),
        "slots": sum(backend.slots for backend in pool.backends),
        "in_flight": sum(one["in_flight"] for one in backends),
        "waiting": pool.waiting + waiting_elsewhere(model.name, told),
        "price": price_to_json(model.price),
        "limits": {"rpm": limits.rpm, "tpm": limits.tpm, "concurrency": limits.concurrency},
        "backends": backends,
    }


def _reason(model: ServedModel) -> str | None:
    """Why the model can't answer now, in a sentence; None if it can, or once it is asked."""
    pool, engine = model.pool, model.deployment.on_demand
    state = model.state
    if state == "ready":
        return None
    if not pool.states and state in ("down", "failed"):  # of a cluster
        return f"{without_folders(model.deployment.operator_reason)}."
    if state == "down":
        if pool.drained:
            return "Its operator lets no new request to it."
        drained = len(pool.in_service) < len(pool.states)
        also = ", save those that its operator drains" if drained else ""
        return f"The latest probe of every backend failed{also}."
    if state == "failed":
        return without_folders(pool.failure or "Its engine failed.")
    if state == "loading":
        return f"{without_folders(model.deployment.operator_reason)}."
    if engine is not None and engine.load_failure is not None:
        failure = without_folders(engine.load_failure).rstrip(".")
        return f"The latest load failed: {failure}. The next request tries it again."
    return None
