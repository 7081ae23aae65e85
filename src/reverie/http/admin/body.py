"""The body of ``POST /admin/v1/keys`` → the order that it is, or an error that names the field."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.gateway.accounts.key_service import KeyOrder
from reverie.http.request.validation import error_text
from reverie.store.keys import RateLimits

_MAX_NAME = 100


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class Limits(_Strict):
    """Limits on one model; one that is absent or null isn't there."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class NewKey(_Strict):
    """A key to make; a limit that is absent or null isn't there."""

    name: str
    """What lists and log lines call it; no two keys in use share it."""
    models: list[str] | None = None
    """The models that it may use; null: all."""
    rpm: int | None = None
    """Requests in any 60 seconds."""
    tpm: int | None = None
    """Tokens in any 60 seconds, prompts and answers together."""
    concurrency: int | None = None
    """Requests at once."""
    budget: str | None = Field(default=None, examples=["10USD/month"])
    """What it may spend in a day or a month (UTC)."""
    expires_at: str | None = Field(default=None, examples=["2027-01-31T00:00:00Z"])
    """When it ends: RFC 3339, a day, or a span from now, as `30d`."""
    weight: int = 1
    """Its share of a full server, beside other keys'."""
    model_limits: dict[str, Limits] = {}
    """A model's name → limits of this key on it."""


def read_order(raw: bytes) -> KeyOrder:
    """Read the body.

    Raises:
        UnsupportedParameter: it has a field that isn't known.
        InvalidRequest: it isn't JSON, or a field is missing or of a wrong type.
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        raise InvalidRequest("The request body can't be read as JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The request body should be a JSON object.")
    try:
        new = NewKey.model_validate(body)
    except ValidationError as error:
        raise _error(error.errors(include_url=False, include_input=False)[0]) from None
    return KeyOrder(
        name=new.name,
        models=None if new.models is None else tuple(new.models),
        rpm=new.rpm,
        tpm=new.tpm,
        concurrency=new.concurrency,
        budget=new.budget,
        expires_at=new.expires_at,
        weight=new.weight,
        model_limits={
            model: RateLimits(limits.rpm, limits.tpm, limits.concurrency)
            for model, limits in new.model_limits.items()
        },
    )


def body_schema() -> dict[str, Any]:
    """The body's JSON Schema, whole in itself."""
    schema = NewKey.model_json_schema()
    schema["properties"]["model_limits"]["additionalProperties"] = schema.pop("$defs")["Limits"]
    return schema


def _error(mistake: ErrorDetails) -> InvalidRequest:
    """The first mistake, in a sentence that doesn't repeat what was sent."""
    param = ".".join(str(part)[:_MAX_NAME] for part in mistake["loc"])
    unknown = mistake["type"] == "extra_forbidden"
    kind = UnsupportedParameter if unknown else InvalidRequest
    return kind(f"{param}: {error_text(mistake)}.", param=param)
