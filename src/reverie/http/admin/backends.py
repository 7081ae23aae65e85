"""``/admin/v1/backends``: the state of each backend, and taking one out of service.

It is there without a store, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from reverie.errors import NotFound
from reverie.gateway.scheduling.description import add_loads, describe_backend
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.siblings import Siblings
from reverie.http.admin.router import NO_PARAMETERS, Body, admin_router
from reverie.http.operations.errors import not_found


class NamedBackend(Body):
    """One backend of a model."""

    model: str = Field(min_length=1)
    """The model's name, or an alias."""
    backend: str
    """The backend's `name`, as the list has it."""


_OF_ONE: Any = {
    "dependencies": NO_PARAMETERS,
    "responses": not_found("There is no such model, or it has no such backend"),
}


def routes(models: Callable[[], ServedModels], siblings: Siblings) -> APIRouter:
    """The routes.

    Args:
        models: returns the models that are served at the moment.
    """
    router = admin_router()

    @router.get(
        "/backends", summary="The backends, and the state of each", dependencies=NO_PARAMETERS
    )
    async def list_backends() -> dict[str, Any]:
        data = [
            describe_backend(model.name, state)
            for model in models().all
            for state in model.pool.states
        ]
        add_loads(data, await siblings.ask("loads"))
        return {"object": "list", "data": data}

    @router.post("/backends/drain", summary="Send no new request to a backend", **_OF_ONE)
    async def drain(asked: NamedBackend) -> dict[str, Any]:
        return await set_draining(asked, True)

    @router.post("/backends/resume", summary="Send requests to a backend again", **_OF_ONE)
    async def resume(asked: NamedBackend) -> dict[str, Any]:
        return await set_draining(asked, False)

    async def set_draining(asked: NamedBackend, draining: bool) -> dict[str, Any]:
        model = models().find(asked.model)
        state = model.pool.set_draining(asked.backend, draining)
        if state is None:
            known = ", ".join(one.name for one in model.pool.states) or "none at the moment"
            raise NotFound(
                f"{model.name} has no such backend. Its backends: {known}.", param="backend"
            )
        await siblings.set_draining(model.name, state.name, draining)
        return describe_backend(model.name, state)

    return router
