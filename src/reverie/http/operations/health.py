"""``/health``, ``/healthz``, ``/readyz`` and ``/version``: open to everyone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from msgspec import Struct

import reverie
from reverie import background
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import State
from reverie.gateway.siblings import Siblings
from reverie.http.connection.in_flight import InFlight

_NOT_NOW: dict[int | str, dict[str, Any]] = {503: {"description": "Not now; `status` says why"}}


_STATUSES = ("OK", "LOADING", "ERROR")
_STATES: tuple[State, ...] = ("ready", "cold", "loading", "down", "failed")
"""From the best to the worst."""


def about(registry: ModelRegistry) -> dict[str, Any]:
    """What several answers begin with, as those of Livepeer's runner do."""
    return {"pipeline": "llm", "model_id": registry.models.default.name}


class Health(Struct):
    """How one process fares."""

    status: str
    draining: bool
    failing: list[str]
    models: dict[str, State]


def health_of(registry: ModelRegistry, in_flight: InFlight) -> Health:
    return Health(
        status=_status(registry),
        draining=in_flight.draining,
        failing=background.failing(),
        models={model.name: model.state for model in registry.models.all},
    )


def routes(registry: ModelRegistry, in_flight: InFlight, siblings: Siblings) -> APIRouter:
    """The routes.

    Args:
        siblings: answer ``health`` with a ``Health``, as JSON.
    """

    async def health_of_all() -> Health:
        answers = await siblings.ask("health")
        others = [msgspec.json.decode(answer, type=Health) for answer in answers]
        return _together([health_of(registry, in_flight), *others])

    router = APIRouter(tags=["operations"])

    @router.get("/health", summary="Whether this server can generate", responses=_NOT_NOW)
    async def health() -> JSONResponse:
        found = await health_of_all()
        body = {
            "status": found.status,
            "version": reverie.__version__,
            "draining": found.draining,
            "failing": found.failing,
            "models": found.models,
        }
        return JSONResponse(body, status_code=503 if found.status == "ERROR" else 200)

    @router.get("/healthz", summary="Whether this process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "OK"}

    @router.get("/readyz", summary="Whether to send requests here", responses=_NOT_NOW)
    async def readyz() -> JSONResponse:
        if in_flight.draining:
            return JSONResponse({"status": "DRAINING"}, status_code=503)
        if failing := (await health_of_all()).failing:
            return JSONResponse({"status": "FAILING", "failing": failing}, status_code=503)
        models = registry.models
        down = [model.name for model in models.all if model.state == "down"]
        body: dict[str, Any] = {"down": down} if down else {}
        others = any(model.available for model in models.all)
        if models.default.available or (models.default.state == "down" and others):
            return JSONResponse({"status": "OK", **body})
        return JSONResponse({"status": models.default.state.upper(), **body}, status_code=503)

    @router.get("/version", summary="What runs here")
    async def version() -> dict[str, Any]:
        return {**about(registry), "version": reverie.__version__}

    return router


def _together(found: Sequence[Health]) -> Health:
    """Able if one of them is; else what they have of trouble, since each gets some requests."""
    names = found[0].models
    return Health(
        status=min((one.status for one in found), key=_STATUSES.index),
        draining=any(one.draining for one in found),
        failing=sorted({name for one in found for name in one.failing}),
        models={
            name: max((one.models.get(name, "ready") for one in found), key=_STATES.index)
            for name in names
        },
    )


def _status(registry: ModelRegistry) -> str:
    """OK while any model answers; else LOADING while one may yet; else ERROR."""
    if any(model.available for model in registry.models.all):
        return "OK"
    loading = any(model.state == "loading" for model in registry.models.all)
    return "LOADING" if loading else "ERROR"
