"""Routers whose routes check who calls, and whose description in OpenAPI says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPBearer

from reverie.http.connection.exchange import Scope
from reverie.http.operations.errors import ERROR_RESPONSES

BEARER: Dependency = Security(HTTPBearer(auto_error=False))
"""Says that a route takes a key, and checks nothing."""
OR_NONE: dict[str, Any] = {"security": [{}]}
"""What a route adds to its description if some callers need no key."""


def checked_router(tag: str, check: Callable[[Scope], Awaitable[object]]) -> APIRouter:
    """A router whose routes run only if ``check``, such as ``Access.admit``, raises nothing."""

    async def admit(request: Request) -> None:
        await check(request.scope)

    return APIRouter(tags=[tag], dependencies=[BEARER, Depends(admit)], responses=ERROR_RESPONSES)
