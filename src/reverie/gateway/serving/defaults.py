"""A model's own defaults: what holds for the fields that a request leaves open.

Rule: a field that the client names is never touched, whichever dialect it came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from reverie.backends.base import Backend
from reverie.errors import ModelError, UnsupportedParameter
from reverie.models.catalogue import look_up
from reverie.request import GenerateRequest
from reverie.settings import ModelSettings


def defaults_of(model: ModelSettings) -> dict[str, float]:
    """The fields of a ``GenerateRequest`` that the model has defaults for.

    The catalogue's, for a model that it knows; what the configuration says goes before them.
    """
    entry = look_up(model.source or "")
    known = {} if entry is None else dict(entry.defaults)
    found: dict[str, float] = known | model.defaults.model_dump(exclude_none=True)
    if "top_k" in found:
        found["top_k"] = max(0, found["top_k"])  # -1 is one of its spellings of "off"
    return found


def completed(request: GenerateRequest, defaults: Mapping[str, float]) -> GenerateRequest:
    """The request, with the model's defaults for what it leaves open."""
    wanted = {name: value for name, value in defaults.items() if name in request.left_open}
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
