"""Everything but generation: health, versions, models, hardware, metrics, the API's description."""

from __future__ import annotations

from typing import Any

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

import reverie
from reverie.errors import ClientError, MethodNotAllowed, NotFound, ReverieError, ServerError
from reverie.gateway.metrics import Metrics
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.access import Access
from reverie.http.connection.in_flight import InFlight
from reverie.http.dialects.chat import OPENAI
from reverie.http.operations import hardware, openapi

PIPELINE = "llm"
_MODELS_ROUTES = ("/v1/models", "/models", "/llm/models")
_NO_ROUTE = "There is no such route. See /docs."


def build(
    registry: ModelRegistry, access: Access, metrics: Metrics, in_flight: InFlight
) -> FastAPI:
    """The application that answers every route that doesn't generate."""
    app = FastAPIOffline(
        title="Reverie",
        version=reverie.__version__,
        description="Text generation with language models.",
    )
    _describe(app)
    _translate_errors(app)
    _add_health(app, registry, in_flight)
    _add_description_of_self(app, registry, access, metrics)
    for path in _MODELS_ROUTES:
        _add_models(app, registry, access, path)
    return app


def _describe(app: FastAPI) -> None:
    """Add the generation routes, which FastAPI doesn't serve, to what it says of the API."""
    describe_own = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.extend(describe_own())
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _translate_errors(app: FastAPI) -> None:
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, ReverieError)
        return Response(
            OPENAI.error_body(error),
            OPENAI.status(error),
            headers=error.headers,
            media_type="application/json",
        )

    async def starlettes(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return await ours(request, NotFound(_NO_ROUTE))
        if error.status_code == 405:
            return await ours(request, MethodNotAllowed((error.headers or {}).get("Allow", "GET")))
        return await ours(request, ClientError("This request can't be answered."))

    async def bugs(request: Request, _: Exception) -> Response:
        return await ours(request, ServerError("Something went wrong in the gateway."))

    app.add_exception_handler(ReverieError, ours)
    app.add_exception_handler(HTTPException, starlettes)
    app.add_exception_handler(Exception, bugs)


def _add_health(app: FastAPI, registry: ModelRegistry, in_flight: InFlight) -> None:
    @app.get("/health", tags=["operations"], summary="Whether this server can generate")
    async def health() -> JSONResponse:
        status = _status(registry)
        body = {
            "status": status,
            "version": reverie.__version__,
            "draining": in_flight.draining,
            "models": {model.name: model.state for model in registry.models.all},
        }
        return JSONResponse(body, status_code=503 if status == "ERROR" else 200)

    @app.get("/healthz", tags=["operations"], summary="Whether this process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "OK"}

    @app.get("/readyz", tags=["operations"], summary="Whether to send requests here")
    async def readyz() -> JSONResponse:
        if in_flight.draining:
            return JSONResponse({"status": "DRAINING"}, status_code=503)
        default = registry.models.default
        if not default.available:
            return JSONResponse({"status": default.state.upper()}, status_code=503)
        return JSONResponse({"status": "OK"})

    for path, answer in (("/health", health), ("/healthz", healthz), ("/readyz", readyz)):
        app.head(path, include_in_schema=False)(answer)  # as load balancers ask


def _status(registry: ModelRegistry) -> str:
    """OK while any model answers; else LOADING while one may yet; else ERROR."""
    if any(model.available for model in registry.models.all):
        return "OK"
    loading = any(model.state == "loading" for model in registry.models.all)
    return "LOADING" if loading else "ERROR"


def _add_description_of_self(
    app: FastAPI, registry: ModelRegistry, access: Access, metrics: Metrics
) -> None:
    def about() -> dict[str, Any]:
        return {"pipeline": PIPELINE, "model_id": registry.models.default.name}

    @app.get("/version", tags=["operations"], summary="What runs here")
    async def version() -> dict[str, Any]:
        return {**about(), "version": reverie.__version__}

    @app.get(
        "/hardware/info",
        tags=["operations"],
        summary="The machine's GPUs, CPU and memory",
        openapi_extra=openapi.WITH_KEY_ELSEWHERE,
    )
    async def hardware_info(request: Request) -> dict[str, Any]:
        await access.admit_operator(request.scope)
        return {
            **about(),
            "gpu_info": await hardware.info(),
            "cpu": hardware.cpu(),
            "memory": hardware.memory(),
        }

    @app.get(
        "/hardware/stats",
        tags=["operations"],
        summary="What the machine's GPUs do now",
        openapi_extra=openapi.WITH_KEY_ELSEWHERE,
    )
    async def hardware_stats(request: Request) -> dict[str, Any]:
        await access.admit_operator(request.scope)
        return {
            **about(),
            "gpu_stats": await hardware.stats(),
            "cpu": hardware.cpu(),
            "memory": hardware.memory(),
        }

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus metrics",
        openapi_extra=openapi.WITH_KEY_ELSEWHERE,
    )
    async def prometheus(request: Request) -> Response:
        await access.admit_operator(request.scope)
        return Response(
            metrics.render(), headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST}
        )


def _add_models(app: FastAPI, registry: ModelRegistry, access: Access, path: str) -> None:
    in_schema = path == _MODELS_ROUTES[0]

    @app.get(
        path,
        tags=["models"],
        summary="The models served here",
        include_in_schema=in_schema,
        openapi_extra=openapi.WITH_KEY,
    )
    async def list_models(request: Request) -> dict[str, Any]:
        await access.admit(request.scope)
        data = [
            _entry(model, name)
            for model in registry.models.all
            for name in (model.name, *model.settings.aliases)
        ]
        return {"object": "list", "data": data}

    @app.get(
        path + "/{name:path}",
        tags=["models"],
        summary="One model",
        include_in_schema=in_schema,
        openapi_extra=openapi.WITH_KEY,
    )
    async def show_model(request: Request, name: str) -> dict[str, Any]:
        await access.admit(request.scope)
        if not name:  # elsewhere an empty name is the default model
            raise NotFound(_NO_ROUTE)
        return _entry(registry.models.find(name), name)


def _entry(model: ServedModel, name: str) -> dict[str, Any]:
    """One name of a model, in OpenAI's shape; an alias says what it stands for."""
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "reverie",
        "loaded": model.state == "ready",
    }
    if name != model.name:
        entry["alias_of"] = model.name
    return entry
