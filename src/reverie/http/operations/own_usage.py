"""``/v1/usage``: a key's own limits, what is left of them, and what it has spent."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from reverie.errors import AccountsUnavailable, StoreFailure
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.own_usage import own_usage
from reverie.gateway.accounts.store import Store
from reverie.http.access import Access
from reverie.http.operations.security import checked_router
from reverie.times import now_ms

PATHS = ("/v1/usage", "/usage", "/llm/usage")
"""The same under each; the first is in the API's description."""


def routes(store: Store | None, access: Access) -> APIRouter:
    router = checked_router("accounts", access.admit)

    async def show(request: Request) -> dict[str, Any]:
        caller = await access.admit(request.scope)
        if store is None:
            return {"object": "usage", "key": {"id": caller.key_id, "name": caller.name}}
        try:
            return await asyncio.to_thread(_read, store, caller)
        except StoreFailure:
            raise AccountsUnavailable from None

    for path in PATHS:
        router.get(path, summary="Your key's limits and use", include_in_schema=path == PATHS[0])(
            show
        )
    return router


def _read(store: Store, caller: Caller) -> dict[str, Any]:
    with store.read() as connection:
        return own_usage(connection, caller, now_ms())
