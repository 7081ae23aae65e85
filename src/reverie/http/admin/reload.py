"""``POST /admin/v1/reload``: read the configuration again."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request

from reverie.errors import ConfigurationError, InvalidRequest
from reverie.gateway.serving.config_diff import Changes
from reverie.http.access import Access
from reverie.http.admin.accounts import PREFIX, Answer, guarded, refuse_parameters
from reverie.http.dialects.errors import error_object

_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^/\s:]+/)*(?=[^/\s])")
"""The folders of a path, and nothing of a URL."""


def add_route(app: FastAPI, reload: Callable[[], Awaitable[Changes]], access: Access) -> None:
    """Add the route, which the admin key opens."""

    async def answer(request: Request) -> Answer:
        refuse_parameters(request)
        try:
            changes = await reload()
        except ConfigurationError as error:
            return 400, _refusal(error)
        return 200, {"object": "reload", **changes._asdict()}

    app.add_api_route(
        f"{PREFIX}/reload",
        guarded(answer, access),
        methods=["POST"],
        summary="Read the configuration again, for the requests that come",
        tags=["admin"],
        operation_id="admin_reload_post",
        openapi_extra={"security": [{"HTTPBearer": []}]},
        response_model=None,
    )


def _refusal(error: ConfigurationError) -> dict[str, object]:
    """What is wrong, a sentence each. The log has the same with whole paths."""
    problems = [_FOLDERS.sub("", problem) for problem in error.problems]
    told = InvalidRequest("Nothing was changed. " + " ".join(problems))
    return {"detail": {"msg": told.message}, "error": {**error_object(told), "problems": problems}}
