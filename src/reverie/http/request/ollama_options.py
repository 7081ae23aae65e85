"""``options`` of a request in Ollama's dialect → the fields of a ``GenerateRequest``.

An option is mapped, or has no effect here and is told, or is refused by name where leaving it out
would change how the model answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, Tag

from reverie.http.request.lenient import Lenient
from reverie.http.request.sampling import left_open
from reverie.http.request.schema import UNSUPPORTED, union_by_form
from reverie.http.request.validation import Mistake
from reverie.request import DEFAULT_MAX_TOKENS

DEFAULT_TEMPERATURE = 0.8
"""Ollama's own."""
_MAX_INT32 = 2**31 - 1
_RANDOM_SEED = -1

_StopString = Annotated[str, Field(min_length=1, max_length=1000)]
_Stop: Any = union_by_form(
    Annotated[_StopString, Tag("<string>")]
    | Annotated[list[_StopString], Field(max_length=16, fail_fast=True), Tag("<array>")],
    "a string or a list of at most 16 strings",
)


class Options(Lenient):
    """The options that are known. Others, such as those of the engine's memory, have no effect."""

    num_predict: int | None = Field(default=None, ge=-(2**31), le=_MAX_INT32)
    """Tokens; none, 0 and below: ``DEFAULT_MAX_TOKENS``."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=-1, le=_MAX_INT32)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: _Stop | None = None
    repeat_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    # The ways to sample that no engine here has.
    mirostat: float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None
    penalize_newline: bool | None = None


_OFF = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
"""The values that ask for nothing."""


def sampling(options: Options) -> dict[str, Any]:
    """The fields of a ``GenerateRequest`` that the options set."""
    wanted = options.num_predict or 0
    fields: dict[str, Any] = {
        "max_tokens": wanted if wanted > 0 else DEFAULT_MAX_TOKENS,
        "temperature": _or(options.temperature, DEFAULT_TEMPERATURE),
        "top_k": max(0, options.top_k or 0),
        "top_p": _or(options.top_p, 1.0),
        "min_p": _or(options.min_p, 0.0),
        "seed": None if options.seed == _RANDOM_SEED else options.seed,
        "repetition_penalty": _or(options.repeat_penalty, 1.0),
        "presence_penalty": _or(options.presence_penalty, 0.0),
        "frequency_penalty": _or(options.frequency_penalty, 0.0),
        "left_open": left_open(
            options, max_tokens="num_predict", repetition_penalty="repeat_penalty"
        ),
    }
    stop = options.stop or ()
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return fields


def refused(options: Options) -> Iterator[Mistake]:
    """The options that would change the answer, and that no engine here has."""
    for name, off in _OFF.items():
        if getattr(options, name) not in (None, off):
            yield Mistake(
                ("options", name), f"This is not supported: leave it out, or at {off}", UNSUPPORTED
            )
    if options.penalize_newline is False and _penalizes(options):
        yield Mistake(
            ("options", "penalize_newline"),
            "This is not supported beside a penalty: leave it out, or at true",
            UNSUPPORTED,
        )


def _penalizes(options: Options) -> bool:
    penalties = (options.presence_penalty, options.frequency_penalty)
    return options.repeat_penalty not in (None, 1) or any(penalties)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
