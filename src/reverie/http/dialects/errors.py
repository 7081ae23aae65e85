"""Errors in a shape that Livepeer's and OpenAI's clients both parse."""

from __future__ import annotations

from typing import Any

import msgspec

from reverie.errors import InvalidRequest, ReverieError
from reverie.http.dialects.wire import LLMError


def error_object(error: ReverieError) -> LLMError:
    """OpenAI's ``error`` object."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def v1_status(error: ReverieError) -> int:
    """The HTTP status of an error on all routes but ``/llm``."""
    return error.status if error.openai_status is None else error.openai_status


def error_body(error: ReverieError, status: int) -> bytes:
    """The body of an error that is sent with that status.

    Livepeer's clients tell two shapes of ``detail`` apart by the status: a list with 422, and
    ``{"msg": …}`` with all others.
    """
    detail: Any = {"msg": error.message}
    if status == 422 and isinstance(error, InvalidRequest):
        detail = error.details
    return msgspec.json.encode({"detail": detail, "error": error_object(error)})
