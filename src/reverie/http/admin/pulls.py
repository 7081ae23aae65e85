"""``/admin/v1/models/pull`` and its like: which models there are, fetching one, cancelling that."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import Field

from reverie.errors import ModelError, NotFound, Overloaded
from reverie.gateway.pulls import Pull, Pulls, checked
from reverie.gateway.siblings import Siblings
from reverie.http.admin.router import NO_PARAMETERS, Body, admin_router
from reverie.http.operations.errors import not_found
from reverie.models.offers import offers
from reverie.runner.gpus import for_models
from reverie.text import without_folders
from reverie.threads import run_in_daemon_thread


class Source(Body):
    """A model that isn't here yet."""

    source: str = Field(min_length=1, max_length=500, examples=["hf:Qwen/Qwen3-8B-GGUF"])
    """A name of the catalogue, or `hf:OWNER/REPO[/FILE.gguf]`."""


def routes(pulls: Pulls, siblings: Siblings) -> APIRouter:
    """The routes.

    Args:
        siblings: answer ``pulls`` with theirs, as JSON, and ``cancel_pull`` with one, or null.
    """

    async def elsewhere() -> list[dict[str, Any]]:
        return [one for told in await siblings.ask("pulls") for one in msgspec.json.decode(told)]

    router = admin_router()

    @router.post(
        "/models/pull", summary="Fetch a model", status_code=202, dependencies=NO_PARAMETERS
    )
    async def pull(asked: Source) -> dict[str, Any]:
        running = [one for one in await elsewhere() if one["state"] == "running"]
        same = [one for one in running if one["source"] == checked(asked.source)]
        if same:
            return same[0]
        busy = [one["source"] for one in running]
        return pulls.begin(asked.source, busy).to_json()

    @router.get(
        "/models/pulls",
        summary="The downloads that run, and the latest that ended",
        dependencies=NO_PARAMETERS,
    )
    async def list_pulls() -> dict[str, Any]:
        return {"object": "list", "data": [*map(Pull.to_json, pulls.all), *await elsewhere()]}

    @router.post(
        "/models/pull/cancel",
        summary="End a download",
        dependencies=NO_PARAMETERS,
        responses=not_found("No download of this model runs"),
    )
    async def cancel(asked: Source) -> dict[str, Any]:
        try:
            return (await pulls.cancel(asked.source)).to_json()
        except NotFound:
            for told in await siblings.ask("cancel_pull", asked.source.encode()):
                ended: dict[str, Any] | None = msgspec.json.decode(told)
                if ended is not None:
                    return ended
            raise

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
