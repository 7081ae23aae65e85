"""Errors of FastAPI's routes → answers in the shape that all of this server's errors have."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from reverie.errors import (
    ClientError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ReverieError,
    ServerError,
    UnsupportedParameter,
)
from reverie.http.dialects.chat import OPENAI
from reverie.http.request.validation import error_text

NO_ROUTE = "There is no such route. See /docs."


def _error(description: str) -> dict[str, Any]:
    # By its name, which ``openapi`` describes: FastAPI would build a model of it for every route.
    schema = {"$ref": "#/components/schemas/HTTPError"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": _error("The request is refused; `error.code` says why"),
    "5XX": _error("It can't be answered now; `error.code` says why"),
}
"""What the API's description says of the errors of a route."""


def not_found(description: str) -> dict[int | str, dict[str, Any]]:
    """What it says of a route that may find nothing."""
    return {404: _error(description)}


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_NOT_JSON = "The request body can't be read as JSON."
_MAX_NAME = 100


def error_response(error: ReverieError) -> Response:
    return Response(
        OPENAI.error_body(error),
        OPENAI.status(error),
        headers=error.headers,
        media_type="application/json",
    )


def translate_errors(app: FastAPI, *, preflights: bool = False) -> None:
    """Answer every error of an application's routes in our shape.

    Args:
        preflights: browsers' OPTIONS requests are answered in front of the application.
    """

    async def answer(request: Request, error: Exception) -> Response:
        return error_response(_as_reverie_error(request, error, preflights=preflights))

    for kind in (ReverieError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def _as_reverie_error(request: Request, error: Exception, *, preflights: bool) -> ReverieError:
    if isinstance(error, ReverieError):
        return error
    if isinstance(error, RequestValidationError):
        return _first_mistake(error)
    if not isinstance(error, HTTPException):  # a bug: the server logs it
        return ServerError("Something went wrong in the gateway. Its operator's log says why.")
    if error.status_code == 404:
        return NotFound(NO_ROUTE)
    if error.status_code == 405:
        also = ["OPTIONS"] if preflights else []
        return MethodNotAllowed(", ".join([*_methods(request), *also]))
    # What is left is FastAPI's own, of a body that isn't UTF-8 or is nested too deeply.
    return ClientError(_NOT_JSON)


def _methods(request: Request) -> list[str]:
    """All methods that the request's path answers."""
    answered = [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] == Match.FULL
            for route in request.app.routes
        )
    ] or ["GET"]  # of the documentation's files, a mount that has changed the scope
    return [*answered, "HEAD"] if "GET" in answered else answered


def _first_mistake(error: RequestValidationError) -> InvalidRequest:
    """The first mistake, in a sentence that doesn't repeat what was sent."""
    mistake = error.errors()[0]
    place, *path = mistake["loc"]
    if mistake["type"] == "json_invalid":
        return InvalidRequest(_NOT_JSON)
    if not path:
        return InvalidRequest(f"The request {place} should be a JSON object.")
    param = ".".join(str(part)[:_MAX_NAME] for part in path)
    unknown = mistake["type"] == "extra_forbidden"
    kind = UnsupportedParameter if unknown else InvalidRequest
    return kind(f"{param}: {error_text(mistake)}.", param=param)
