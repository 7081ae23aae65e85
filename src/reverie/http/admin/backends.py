"""``GET /admin/v1/backends``: the state of each backend. It is there without a store, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter

from reverie.gateway.scheduling import standing
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.admin.router import NO_PARAMETERS, admin_router


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
        data = [backend for model in models() for backend in standing.told(model.pool)]
        return {"object": "list", "data": data}

    return router
