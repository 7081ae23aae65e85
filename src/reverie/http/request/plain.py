"""Plain requests, which most are: text messages and a few numbers, read and checked in one go.

Rule: what is read here is what ``schema`` and ``validation`` accept, with the same bounds, and it
becomes the same. Anything else, mistakes included, is theirs: they know the words for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from reverie.http.request.sampling import WITH_DEFAULTS
from reverie.http.request.schema import MAX_MESSAGES, LLMRequest
from reverie.request import GenerateRequest

_LIMITS = ("gt", "ge", "le", "min_length", "max_length")


class _Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool


def _as_in_schema(name: str, other_name: str | None = None) -> tuple[str, Any, Any]:
    """A field as the schema has it, where it is a scalar."""
    field = LLMRequest.model_fields[name]
    limits = {
        limit: getattr(rule, limit)
        for rule in field.metadata
        for limit in _LIMITS
        if hasattr(rule, limit)
    }
    kind: Any = Annotated[field.annotation, Meta(**limits)] if limits else field.annotation
    return other_name or name, kind | UnsetType, UNSET


_StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
_Plain = msgspec.defstruct(
    "_Plain",
    [
        ("messages", Annotated[list[_Message], Meta(min_length=1, max_length=MAX_MESSAGES)]),
        *map(
            _as_in_schema,
            (
                "model", "temperature", "max_tokens", "top_p", "top_k", "min_p", "stream",
                "presence_penalty", "frequency_penalty", "repetition_penalty",
            ),
        ),
        _as_in_schema("max_tokens", "max_completion_tokens"),
        ("stream_options", _StreamOptions | UnsetType, UNSET),
        ("seed", Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | UnsetType, UNSET),
        ("stop", _StopString | Annotated[list[_StopString], Meta(max_length=4)] | UnsetType, UNSET),
    ],
    forbid_unknown_fields=True,
)  # fmt: skip
_decode = msgspec.json.Decoder(_Plain).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)


def parse_plain(raw: bytes) -> GenerateRequest | None:
    """The request that a body is; None if it isn't a plain one."""
    try:
        given = msgspec.structs.asdict(_decode(raw))
    except _UNREADABLE:
        return None
    fields = {name: value for name, value in given.items() if value is not UNSET}
    limit = fields.pop("max_completion_tokens", None)
    if limit is not None:
        if "max_tokens" in fields:
            return None
        fields["max_tokens"] = limit
    options = fields.pop("stream_options", None)
    if options is not None:
        if not fields.get("stream"):
            return None
        fields["include_usage"] = options.include_usage
    stop = fields.get("stop")
    if stop is not None:
        fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if fields.get("top_k", 0) < 0:
        fields["top_k"] = 0
    fields.setdefault("model", "")
    fields["messages"] = [{"role": m.role, "content": m.content} for m in fields["messages"]]
    return GenerateRequest(left_open=WITH_DEFAULTS - fields.keys(), **fields)
