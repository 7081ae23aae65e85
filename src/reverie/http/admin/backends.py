"""The admin API's view of the backends. It is there without a store of accounts, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from reverie.errors import UnsupportedParameter
from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.access import Access
from reverie.times import format_moment


def add_routes(app: FastAPI, models: Callable[[], Iterable[ServedModel]], access: Access) -> None:
    """Add ``GET /admin/v1/backends``.

    Args:
        models: those that are served when it is called.
    """

    async def list_backends(request: Request) -> JSONResponse:
        await access.admit_admin(request.scope)
        for name in request.query_params:
            raise UnsupportedParameter(
                f"{name[:100]}: This parameter is not known.", param=name[:100]
            )
        pools = [model.pool for model in models()]
        data = [_to_json(pool, state) for pool in pools for state in pool.states]
        return JSONResponse({"object": "list", "data": data}, headers={"Cache-Control": "no-store"})

    app.add_api_route(
        "/admin/v1/backends",
        list_backends,
        methods=["GET"],
        summary="The backends, and how each of them stands",
        tags=["admin"],
        operation_id="admin_list_backends_get",
        openapi_extra={"security": [{"HTTPBearer": []}]},
        response_model=None,
    )


def _to_json(pool: Pool, state: BackendState) -> dict[str, Any]:
    """A backend, with no secret, no prompt and no engine's text."""
    backend, speed = state.backend, state.speed
    error, health = state.last_error, backend.health
    return {
        "model": pool.model,
        "name": state.name,
        "kind": backend.kind,
        "url": backend.url or None,
        "state": state.circuit,
        "reason": state.reason,
        "retry_in": round(state.retry_in, 1),
        "ready": backend.ready,
        "slots": backend.slots,
        "in_flight": state.in_flight,
        "weight": backend.weight,
        "tokens_per_second": round(1 / speed.per_token, 1) if speed.per_token else None,
        "time_to_first_token": None if speed.ttft is None else round(speed.ttft, 4),
        "consecutive_failures": state.failures,
        "last_error": error and {"code": error.code, "at": _timestamp(error.at)},
        "last_probe": health
        and {"ok": health.good, "code": health.code or None, "at": _timestamp(health.at)},
    }


def _timestamp(seconds: float) -> str:
    return format_moment(int(seconds * 1000))
