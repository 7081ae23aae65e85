"""What the routes of this folder share: a request that was parsed, and how a body becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from reverie.errors import InvalidRequest
from reverie.http.request.mistakes import decode_object, error_of, mistakes_of, not_json
from reverie.http.request.validation import Mistake
from reverie.tasks import R, TaskRequest

MAX_INT32 = 2**31 - 1

W = TypeVar("W", bound=BaseModel)


class Asked(NamedTuple, Generic[R]):
    """One request: which model is asked for what, and the answer that its result becomes."""

    model: str
    request: TaskRequest[R]
    answer: Callable[[R, str, int, bool], Any]
    """Result, model's name, tokens, whether those are an estimate → what is sent as JSON. It may
    take long."""
    told: Sequence[tuple[bytes, bytes]] = ()
    """Headers that the answer carries."""


def read(body: bytes, shape: type[W]) -> W:
    """A body of this shape.

    Raises:
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
        InvalidRequest: it has any other mistake.
    """
    plain = decode_object(body)
    try:
        return shape.model_validate(plain)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    except RecursionError:
        raise not_json("the body is nested too deeply") from None


def mistake(field: str, message: str, kind: str = "value_error") -> InvalidRequest:
    """The error for one field."""
    return error_of([Mistake((field,), message, kind)])


def usage(tokens: int, *, estimated: bool) -> dict[str, Any]:
    """OpenAI's ``usage`` of a request without an answer's tokens."""
    counted: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {**counted, "estimated": True} if estimated else counted
