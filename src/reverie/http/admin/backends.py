"""The admin API's view of the backends. It is there without a store of accounts, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from reverie.errors import UnsupportedParameter
from reverie.gateway.scheduling import standing
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.access import Access


def add_routes(app: FastAPI, models: Callable[[], Iterable[ServedModel]], access: Access) -> None:
    """Add ``GET /admin/v1/backends``.

    Args:
        models: those that are served when it is called.
    """

    async def list_backends(request: Request) -> JSONResponse:
        await access.admit_admin(request.scope)
        for name in request.query_params:
            raise UnsupportedParameter(
                f"{name[:100]}: This parameter is not known.", param=name[:100]
            )
        data = [backend for model in models() for backend in standing.told(model.pool)]
        return JSONResponse({"object": "list", "data": data}, headers={"Cache-Control": "no-store"})

    app.add_api_route(
        "/admin/v1/backends",
        list_backends,
        methods=["GET"],
        summary="The backends, and how each of them stands",
        tags=["admin"],
        operation_id="admin_list_backends_get",
        openapi_extra={"security": [{"HTTPBearer": []}]},
        response_model=None,
    )
