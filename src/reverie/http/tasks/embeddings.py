"""``POST /v1/embeddings``: texts → vectors, in OpenAI's shape."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, StrictInt
from pydantic_core import PydanticCustomError

from reverie.http.request.schema import Wire
from reverie.http.tasks.asked import MAX_INT32, Asked, read, usage
from reverie.tasks import Embeddings, EmbedRequest

_MAX_INPUTS = 2048

_FORMS = "Input should be a string, a list of strings, a list of token ids, or a list of such lists"


def _inputs(value: Any) -> list[str | list[int]]:
    """The texts, or lists of token ids; one by itself is a list of one."""
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if not isinstance(value, list):
        raise PydanticCustomError("wrong_type", _FORMS)
    if not value:
        raise PydanticCustomError("value_error", "List should have 1 or more items")
    if len(value) > _MAX_INPUTS:
        raise PydanticCustomError("value_error", f"List should have {_MAX_INPUTS} or fewer items")
    form = type(value[0])
    for index, one in enumerate(value):
        at = {"at": index} if len(value) > 1 else {}
        if form not in (str, list) or type(one) is not form:
            raise PydanticCustomError("wrong_type", _FORMS, at)
        if not one:
            raise PydanticCustomError("value_error", "An input must not be empty", at)
        if form is list and not all(type(it) is int and 0 <= it <= MAX_INT32 for it in one):
            raise PydanticCustomError(
                "wrong_type", f"Token ids should be integers from 0 to {MAX_INT32}", at
            )
    return value


_IDS: dict[str, JsonValue] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT32},
    "minItems": 1,
}
_TEXT: dict[str, JsonValue] = {"type": "string", "minLength": 1}
_MANY: dict[str, JsonValue] = {"type": "array", "minItems": 1, "maxItems": _MAX_INPUTS}
_INPUT_SCHEMA: dict[str, JsonValue] = {
    "anyOf": [_TEXT, {**_MANY, "items": _TEXT}, _IDS, {**_MANY, "items": _IDS}]
}
"""The same for the API's description."""


class EmbeddingsBody(Wire):
    """A request for vectors."""

    input: Annotated[Any, AfterValidator(_inputs), Field(json_schema_extra=_INPUT_SCHEMA)]
    """A text, up to 2048 texts, or the same as token ids."""
    model: str = Field(default="", max_length=200)
    """The model's name; empty takes the first one that embeds."""
    encoding_format: Literal["float", "base64"] = "float"
    """Vectors as lists of numbers, or as little-endian 32-bit floats in base64."""
    dimensions: Annotated[StrictInt, Field(ge=1, le=MAX_INT32)] | None = None
    """The vectors' first numbers, so many, scaled to a length of 1 again."""
    user: Any = None
    """Accepted, no effect."""


def parse(body: bytes) -> Asked[Embeddings]:
    """Parse and check a request's body.

    Raises:
        InvalidRequest, UnsupportedParameter
    """
    asked = read(body, EmbeddingsBody)

    def answer(result: Embeddings, model: str, tokens: int, estimated: bool) -> Any:
        written = _as_base64 if asked.encoding_format == "base64" else list
        vectors = result.shortened(asked.dimensions)
        data = [
            {"object": "embedding", "index": index, "embedding": written(vector)}
            for index, vector in enumerate(vectors)
        ]
        counted = usage(tokens, estimated=estimated)
        return {"object": "list", "data": data, "model": model, "usage": counted}

    return Asked(asked.model, EmbedRequest(asked.input, asked.dimensions), answer)


def _as_base64(vector: list[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode()
