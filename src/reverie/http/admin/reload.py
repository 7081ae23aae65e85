"""``/admin/v1/reload``: read the configuration again, or see what that would change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from reverie.errors import ConfigurationError, InvalidRequest
from reverie.gateway.serving.config_diff import Changes
from reverie.http.admin.router import NO_PARAMETERS, admin_router
from reverie.http.dialects.errors import error_object
from reverie.text import without_folders

Reload = Callable[[], Awaitable[Changes]]


def routes(reload: Reload, preview: Reload) -> APIRouter:
    """The routes.

    Args:
        preview: gives what ``reload`` would change, and changes nothing.
    """
    router = admin_router()

    @router.get(
        "/reload",
        summary="What a reload would change",
        dependencies=NO_PARAMETERS,
        name="reload",
        response_model=dict[str, Any],
    )
    async def preview_reload() -> dict[str, Any] | JSONResponse:
        return await _answer(preview, problems=[])

    @router.post(
        "/reload",
        summary="Read the configuration again, for the requests that come",
        dependencies=NO_PARAMETERS,
        name="reload",
        response_model=dict[str, Any],
    )
    async def reload_configuration() -> dict[str, Any] | JSONResponse:
        return await _answer(reload)

    return router


async def _answer(work: Reload, **more: Any) -> dict[str, Any] | JSONResponse:
    try:
        changes = await work()
    except ConfigurationError as error:
        return JSONResponse(_refusal(error), status_code=400)
    differences = [one._asdict() for one in changes.differences]
    return {"object": "reload", **changes._asdict(), "differences": differences, **more}


def _refusal(error: ConfigurationError) -> dict[str, object]:
    """What is wrong, a sentence each. The log has the same with whole paths."""
    problems = [without_folders(problem) for problem in error.problems]
    refusal = InvalidRequest("Nothing was changed. " + " ".join(problems))
    return {
        "detail": {"msg": refusal.message},
        "error": {**error_object(refusal), "problems": problems},
    }
