"""What the admin routes have in common."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from reverie.errors import InvalidRequest
from reverie.http.admin.guard import PREFIX
from reverie.http.operations.errors import ERROR_RESPONSES
from reverie.http.operations.security import BEARER


class Parameters(BaseModel):
    """The parameters of a query; one that isn't a field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Body(BaseModel):
    """The body of a request; one that isn't a field is an error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


async def _refuse_all(parameters: Annotated[Parameters, Query()]) -> None:
    """Refuse a query where nothing of it would be used."""


NO_PARAMETERS = [Depends(_refuse_all)]
"""The dependencies of a route without parameters."""


def admin_router(*, repeatable: Collection[str] = ()) -> APIRouter:
    """A router for routes under ``/admin/v1``, which ``Guard`` protects.

    Args:
        repeatable: the parameters that a query may have more than once.
    """

    async def refuse_repeats(request: Request) -> None:
        for name in request.query_params.keys() - set(repeatable):
            if len(request.query_params.getlist(name)) > 1:
                raise InvalidRequest(f"{name[:100]}: Give this once.", param=name[:100])

    return APIRouter(
        prefix=PREFIX,
        tags=["admin"],
        dependencies=[BEARER, Depends(refuse_repeats)],
        responses=ERROR_RESPONSES,
        generate_unique_id_function=_operation_id,
    )


def _operation_id(route: APIRoute) -> str:
    return f"admin_{route.name}_{min(route.methods or ()).lower()}"
