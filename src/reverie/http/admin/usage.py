"""``GET /admin/v1/usage``: what was used, by key, model, day and tag."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from reverie.gateway.accounts import usage_report
from reverie.gateway.accounts.store import Store
from reverie.http.admin.router import Parameters, admin_router
from reverie.times import now_ms


class UsageQuery(Parameters):
    by: tuple[str, ...] = ()
    """`key`, `model`, `day` or `tag`; several with commas; default: `key`. A key counts in the
    row of each of its tags, so that rows by tag don't add up to the total."""
    since: str | None = None
    """The first day (UTC), as 2026-11-01, or 7d; default: the first of the month."""
    until: str | None = None
    """The last day; default: today."""
    key: str | None = None
    """A key's name or id."""
    model: str | None = None
    """A model's name."""
    tag: str | None = None
    """A tag: what the keys that have it now have used."""


def routes(store: Store) -> APIRouter:
    """The route. It runs in a thread, since it waits for the store."""
    router = admin_router(repeatable=["by"])

    @router.get("/usage", summary="What was used")
    def usage(query: Annotated[UsageQuery, Query()]) -> dict[str, Any]:
        wanted = usage_report.parse_query(
            query.by, query.since, query.until, query.key, query.model, query.tag, now_ms()
        )
        with store.read() as connection:
            return usage_report.make(connection, wanted).to_json()

    return router
