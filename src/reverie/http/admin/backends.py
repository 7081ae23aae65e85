"""``GET /admin/v1/backends``: the state of each backend. It is there without a store, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.admin.router import NO_PARAMETERS, admin_router
from reverie.times import format_moment


def routes(models: Callable[[], Iterable[ServedModel]]) -> APIRouter:
    """The route.

    Args:
        models: returns the models that are served at the moment.
    """
    router = admin_router()

    @router.get(
        "/backends", summary="The backends, and the state of each", dependencies=NO_PARAMETERS
    )
    async def list_backends() -> dict[str, Any]:
        pools = [model.pool for model in models()]
        data = [_to_json(pool, state) for pool in pools for state in pool.states]
        return {"object": "list", "data": data}

    return router


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
        and {
            "ok": health.ok,
            "code": health.error_code or None,
            "at": _timestamp(health.checked_at),
        },
    }


def _timestamp(seconds: float) -> str:
    return format_moment(int(seconds * 1000))
