"""``/health``, ``/healthz``, ``/readyz`` and ``/version``: open to everyone."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

import reverie
from reverie import background
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.connection.in_flight import InFlight

_NOT_NOW: dict[int | str, dict[str, Any]] = {503: {"description": "Not now; `status` says why"}}


def about(registry: ModelRegistry) -> dict[str, Any]:
    """What several answers begin with, as those of Livepeer's runner do."""
    return {"pipeline": "llm", "model_id": registry.models.default.name}


def routes(registry: ModelRegistry, in_flight: InFlight) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/health", summary="Whether this server can generate", responses=_NOT_NOW)
    async def health() -> JSONResponse:
        status = _status(registry)
        body = {
            "status": status,
            "version": reverie.__version__,
            "draining": in_flight.draining,
            "failing": background.failing(),
            "models": {model.name: model.state for model in registry.models.all},
        }
        return JSONResponse(body, status_code=503 if status == "ERROR" else 200)

    @router.get("/healthz", summary="Whether this process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "OK"}

    @router.get("/readyz", summary="Whether to send requests here", responses=_NOT_NOW)
    async def readyz() -> JSONResponse:
        if in_flight.draining:
            return JSONResponse({"status": "DRAINING"}, status_code=503)
        if failing := background.failing():
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


def _status(registry: ModelRegistry) -> str:
    """OK while any model answers; else LOADING while one may yet; else ERROR."""
    if any(model.available for model in registry.models.all):
        return "OK"
    loading = any(model.state == "loading" for model in registry.models.all)
    return "LOADING" if loading else "ERROR"
