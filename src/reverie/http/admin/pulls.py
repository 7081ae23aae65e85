"""``/admin/v1/models/pull`` and its like: which models there are, fetching one, cancelling that."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from reverie.errors import ModelError, Overloaded
from reverie.gateway.pulls import Pulls
from reverie.http.admin.router import NO_PARAMETERS, Body, admin_router
from reverie.http.operations.errors import not_found
from reverie.http.operations.hardware import for_models
from reverie.models.offers import offers
from reverie.text import without_folders
from reverie.threads import run_in_daemon_thread


class Source(Body):
    """A model that isn't here yet."""

    source: str = Field(min_length=1, max_length=500, examples=["hf:Qwen/Qwen3-8B-GGUF"])
    """A name of the catalogue, or `hf:OWNER/REPO[/FILE.gguf]`."""


def routes(pulls: Pulls) -> APIRouter:
    router = admin_router()

    @router.post(
        "/models/pull", summary="Fetch a model", status_code=202, dependencies=NO_PARAMETERS
    )
    async def pull(asked: Source) -> dict[str, Any]:
        return pulls.begin(asked.source).to_json()

    @router.get(
        "/models/pulls",
        summary="The downloads that run, and the latest that ended",
        dependencies=NO_PARAMETERS,
    )
    async def list_pulls() -> dict[str, Any]:
        return {"object": "list", "data": [one.to_json() for one in pulls.all]}

    @router.post(
        "/models/pull/cancel",
        summary="End a download",
        dependencies=NO_PARAMETERS,
        responses=not_found("No download of this model runs"),
    )
    async def cancel(asked: Source) -> dict[str, Any]:
        return (await pulls.cancel(asked.source)).to_json()

    @router.get(
        "/models/catalogue",
        summary="Models that can be fetched by name, and what they need",
        dependencies=NO_PARAMETERS,
    )
    async def list_catalogue() -> dict[str, Any]:
        memory = max(await for_models())
        try:
            data = await run_in_daemon_thread(partial(offers, memory))
        except ModelError as error:
            raise Overloaded(
                f"The models on disk can't be listed: {without_folders(str(error))}"
            ) from None
        return {"object": "list", "memory_bytes": memory, "data": data}

    return router
