"""A model's own defaults: what holds for the fields that a request leaves open.

Rule: a field that the client names is never touched, whichever dialect it came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from reverie.backends.base import Backend
from reverie.errors import ModelError, UnsupportedParameter
from reverie.models.catalogue import look_up
from reverie.request import GenerateRequest
from reverie.settings import ModelSettings


class Defaults(NamedTuple):
    """Fields of a ``GenerateRequest``, and what they are."""

    each: Mapping[str, float]
    """The configuration's: each holds for itself, where a request leaves it open."""
    together: Mapping[str, float]
    """The catalogue's way to sample, which holds where a request leaves all of it open: half of it
    beside a client's own temperature would be nobody's choice."""


def defaults_of(model: ModelSettings) -> Defaults:
    """What the configuration says; and what the catalogue does, unless that is part of it."""
    entry = look_up(model.source or "")
    known = {} if entry is None else dict(entry.defaults)
    each: dict[str, float] = model.defaults.model_dump(exclude_none=True)
    if "top_k" in each:
        each["top_k"] = max(0, each["top_k"])  # -1 is one of its spellings of "off"
    return Defaults(each, {} if known.keys() & each.keys() else known)


def if_all_open(defaults: Defaults) -> dict[str, float]:
    """What holds for a request that leaves all of these fields open."""
    return {**defaults.together, **defaults.each}


def completed(request: GenerateRequest, defaults: Defaults) -> GenerateRequest:
    """The request, with the model's defaults for what it leaves open."""
    wanted = {name: value for name, value in defaults.each.items() if name in request.left_open}
    if defaults.together.keys() <= request.left_open:
        wanted = {**defaults.together, **wanted}
    if "max_tokens" in wanted:
        wanted["max_tokens"] = max(wanted["max_tokens"], request.min_tokens)
    return replace(request, **wanted) if wanted else request


def require_honoured(model: ModelSettings, backends: Sequence[Backend]) -> None:
    """Refuse defaults that an engine is known not to honour, before a client is told of them.

    Raises:
        ModelError: naming the first of them.
    """
    fields = model.defaults.model_dump(exclude_none=True)
    if not fields or model.task != "generate":
        return
    plain = GenerateRequest(
        model="", messages=[{"role": "user", "content": "Hi"}], left_open=frozenset(fields)
    )
    request = completed(plain, defaults_of(model))
    for backend in backends:
        try:
            backend.check(request)
        except UnsupportedParameter as error:
            raise ModelError(f"{model.name} can't have these defaults: {error}") from None
