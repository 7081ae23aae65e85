"""The wire shapes of requests in Ollama's dialect, ``POST /api/chat`` and ``POST /api/generate``.

Rule: what is known is checked, and what isn't is ignored and told, as Ollama ignores it. A field
that is null counts as absent, as in Go.

Source: ``api/types.go`` of Ollama, and the types of ollama-python 0.6.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool
from pydantic_core import PydanticCustomError

from reverie.http.request.lenient import Lenient
from reverie.http.request.ollama_options import Options
from reverie.http.request.schema import MAX_MESSAGES, Name, base64, image_url

_MAX_NAME = 200
_MEDIA_TYPES = {
    "iVBORw0KGgo": "png",
    "/9j/": "jpeg",
    "R0lGOD": "gif",
    "UklGR": "webp",
    "Qk": "bmp",
}
"""What an image begins with, in base64."""
_DURATION = re.compile(
    r"[+-]?(?:\d{1,12}|(?:\d{1,12}(?:\.\d{0,9})?(?:ns|us|µs|μs|ms|s|m|h)){1,6})", re.ASCII
)
"""A duration of Go, or seconds."""


def _image(value: str) -> str:
    """An image in base64, or a ``data:`` URL of one, as such a URL."""
    if value.startswith("data:"):
        return image_url(value)
    for beginning, kind in _MEDIA_TYPES.items():
        if value.startswith(beginning):
            return f"data:image/{kind};base64,{base64(value)}"
    raise PydanticCustomError(
        "value_error", "This should be an image in base64 (png, jpeg, webp, gif or bmp)"
    )


def _arguments(value: Any) -> Any:
    """A call's arguments as JSON text."""
    if value is None:
        return "{}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _think(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value in ("low", "medium", "high"):
        return value
    raise PydanticCustomError(
        "wrong_type", "Input should be true, false, 'low', 'medium' or 'high'"
    )


def _format(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if value in (None, "", "json"):
        return value or None
    raise PydanticCustomError("wrong_type", "Input should be 'json' or a JSON Schema")


def _keep_alive(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or number or (isinstance(value, str) and _DURATION.fullmatch(value)):
        return value
    raise PydanticCustomError(
        "wrong_type", "Input should be a number of seconds or a duration such as '5m'"
    )


Image = Annotated[str, AfterValidator(_image)]
Images = Annotated[list[Image], Field(max_length=64, fail_fast=True)]


class FunctionCall(Lenient):
    name: str = Field(min_length=1, max_length=_MAX_NAME)
    arguments: Annotated[str, BeforeValidator(_arguments)] = "{}"
    """The arguments as JSON text; on the wire they are an object."""
    index: Any = None


class ToolCall(Lenient):
    id: str | None = Field(default=None, max_length=_MAX_NAME)
    type: Any = None
    function: FunctionCall


class Message(Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128, fail_fast=True)] | None = None
    tool_name: str | None = Field(default=None, max_length=_MAX_NAME)
    """Which tool a ``tool`` message is the result of."""
    tool_call_id: str | None = Field(default=None, max_length=_MAX_NAME)


class Function(Lenient):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Lenient):
    type: Literal["function"] = "function"
    function: Function


class Request(Lenient):
    """What both routes take."""

    model: str = Field(default="", max_length=_MAX_NAME)
    stream: StrictBool | None = None
    format: Annotated[Any, AfterValidator(_format)] = None
    options: Options | None = None
    think: Annotated[Any, AfterValidator(_think)] = None
    keep_alive: Annotated[Any, AfterValidator(_keep_alive)] = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class ChatRequest(Request):
    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=512, fail_fast=True)] | None = None


class PromptRequest(Request):
    """A request to ``/api/generate``."""

    prompt: str | None = None
    system: str | None = None
    images: Images | None = None
    raw: StrictBool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
