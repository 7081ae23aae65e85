"""``/v1/usage``: a key's own limits, what is left of them, and what it has spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Query, Request

from reverie.errors import AccountsUnavailable, InvalidRequest, StoreFailure
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.key_service import InvalidInput
from reverie.gateway.accounts.own_usage import UsageQuery, own_query, own_usage
from reverie.gateway.accounts.store import Store
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.operations.security import checked_router
from reverie.times import now_ms

PATHS = ("/v1/usage", "/usage", "/llm/usage")
"""The same under each; the first is in the API's description."""
_By: TypeAlias = Annotated[
    tuple[str, ...], Query(description="`model` or `day`, or both with a comma; default: `model`")
]
_Since: TypeAlias = Annotated[
    str | None, Query(description="The first day (UTC), as 2026-11-01, or 7d")
]
_Until: TypeAlias = Annotated[str | None, Query(description="The last day; default: today")]


def routes(store: Store | None, access: Access, registry: ModelRegistry) -> APIRouter:
    router = checked_router("accounts", access.admit)

    async def show(
        request: Request, by: _By = (), since: _Since = None, until: _Until = None
    ) -> dict[str, Any]:
        caller = await access.admit(request.scope)
        now = now_ms()
        try:
            query = own_query(by, since, until, now)
        except InvalidInput as error:
            raise InvalidRequest(f"{error.field}: {error.message}.", param=error.field) from None
        if store is None:
            return {"object": "usage", "key": {"id": caller.key_id, "name": caller.name}}
        try:
            models = {alias: one.name for one in registry.models.all for alias in one.names}
            return await asyncio.to_thread(_read, store, caller, models, now, query)
        except StoreFailure:
            raise AccountsUnavailable from None

    for path in PATHS:
        router.get(path, summary="Your key's limits and use", include_in_schema=path == PATHS[0])(
            show
        )
    return router


def _read(
    store: Store, caller: Caller, models: Mapping[str, str], now: int, query: UsageQuery | None
) -> dict[str, Any]:
    with store.read() as connection:
        return own_usage(connection, caller, models, now, query)
