"""What requests for conversations and for prompts share → fields of a ``GenerateRequest``."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from pydantic import BaseModel

from reverie.http.request.schema import Sampling
from reverie.request import GenerateRequest
from reverie.settings import DefaultSettings

WITH_DEFAULTS = frozenset(DefaultSettings.model_fields)
"""The fields for which a model may have defaults of its own."""


def choices_of(request: GenerateRequest, n: int) -> list[GenerateRequest]:
    """The generations of several answers to one prompt, each with a seed of its own."""
    seed = request.seed
    return [
        request,
        *(
            replace(request, counts_prompt=False, seed=None if seed is None else seed ^ index)
            for index in range(1, n)
        ),
    ]


def left_open(request: BaseModel, **names: str) -> frozenset[str]:
    """The fields that a request leaves to its model's own defaults: those that are None or unknown.

    Args:
        names: the request's own name of a field, where it has another one.
    """
    given = request.__dict__  # not getattr, which finds fields that a dialect ignores
    return frozenset(name for name in WITH_DEFAULTS if given.get(names.get(name, name)) is None)


def sampling_of(request: Sampling) -> dict[str, Any]:
    """The fields of a ``GenerateRequest`` that requests for conversations and prompts share."""
    options = request.stream_options
    named = request.model_fields_set
    if "max_completion_tokens" in named:
        named = {*named, "max_tokens"}
    return {
        "model": request.model,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": max(0, request.top_k),
        "min_p": request.min_p,
        "stream": request.stream,
        "include_usage": options is not None and options.include_usage is True,
        "continuous_usage": options is not None and options.continuous_usage_stats is True,
        "stop": _stop(request.stop),
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": request.logit_bias or None,
        "repetition_penalty": request.repetition_penalty,
        "min_tokens": request.min_tokens,
        "ignore_eos": request.ignore_eos,
        "left_open": WITH_DEFAULTS - named,
    }


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)
