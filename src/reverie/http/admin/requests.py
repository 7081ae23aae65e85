"""``GET /admin/v1/requests``: the ledger's last requests, page by page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from reverie.gateway.accounts.request_list import last_requests
from reverie.gateway.accounts.store import Store
from reverie.http.admin.router import Parameters, admin_router


class RequestsPage(Parameters):
    limit: int = Field(default=100, ge=1, le=1000)
    """Requests on the page."""
    key: str | None = None
    """A key's name or id."""
    model: str | None = None
    """A model's name."""
    tag: str | None = None
    """A tag: the requests of the keys that have it now."""
    outcome: str | None = None
    """`ok`, `length`, `cancelled`, `failed`, `lost` or `running`; several with commas."""
    before: str | None = None
    """The `last_id` of the page before."""


def routes(store: Store) -> APIRouter:
    """The route. It runs in a thread, since it waits for the store."""
    router = admin_router()

    @router.get("/requests", summary="The last requests, newest first, page by page")
    def requests(page: Annotated[RequestsPage, Query()]) -> dict[str, Any]:
        with store.read() as connection:
            found = last_requests(connection, **page.model_dump())
        return {
            "object": "list",
            "data": found.requests,
            "has_more": found.has_more,
            "last_id": found.last_id,
        }

    return router
