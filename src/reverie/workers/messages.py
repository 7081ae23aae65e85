"""What the parent and its workers tell and ask each other, besides shares."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from reverie.gateway.serving.config_diff import Changes
from reverie.gateway.serving.served_models import ServedModel, ServedModels
from reverie.settings import Settings

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class EngineState(Struct, frozen=True, array_like=True):
    """An engine that the parent runs, as its workers need to know it."""

    number: int
    """Of its deployment."""
    state: str
    socket: str
    context: int | None
    expected_context: int
    kv_tokens: int
    memory: int
    failure: str | None
    is_cold: bool
    in_memory: bool
    loading_on_request: bool
    load_failure: str | None
    not_ready_reason: str
    ready_at: float | None
    """When it will probably be ready, in ``time.monotonic()`` seconds, which all processes share.
    """


class Configuration(Struct, frozen=True, array_like=True):
    """What a worker is to serve."""

    settings: bytes
    """Pickled, since they hold keys that no other form of them shows."""
    numbers: dict[str, int]
    """The number of each model's deployment. One that stays keeps its number."""
    static_keys: list[tuple[bytes, str]]
    engines: list[EngineState]
    draining: list[tuple[int, str]]
    """Backends that the operator drains: the deployment's number and the backend's name."""

    def read_settings(self) -> Settings:
        settings = pickle.loads(self.settings)
        assert isinstance(settings, Settings)
        return settings


class Began(Struct, frozen=True, array_like=True):
    """How a worker's start went."""

    problems: list[str]
    """Sentences; none: it serves."""
    is_configuration: bool = True
    """False: the problem is a model's."""


class Ready(NamedTuple):
    """What a server announces once its default model can answer."""

    default: str
    models: list[str]
    """Each with what is particular about it."""
    down: list[str]
    keyless: bool

    @classmethod
    def of(cls, models: ServedModels, *, keyless: bool) -> Ready:
        return cls(
            default=models.default.name,
            models=[_described(model, models.default) for model in models.all],
            down=[model.name for model in models.all if model.state == "down"],
            keyless=keyless,
        )


def _described(model: ServedModel, default: ServedModel) -> str:
    """A model's name, and what is particular about it."""
    marks = [
        *(["default"] if model is default else []),
        *([] if model.settings.task == "generate" else [model.settings.task]),
        *([] if model.state == "ready" else [model.state]),
    ]
    return model.name + (f" ({', '.join(marks)})" if marks else "")


class Holders(Struct, frozen=True, array_like=True):
    """How many requests of a worker hold an engine, and whether one has used it since."""

    number: int
    count: int
    used: bool


class Load(Struct, frozen=True, array_like=True):
    """A wish to load an engine."""

    number: int
    by_operator: bool


class Unload(Struct, frozen=True, array_like=True):
    """A wish to unload an engine unless it is in use."""

    number: int
    reason: str


class Unloaded(Struct, frozen=True, array_like=True):
    """What came of it."""

    done: bool
    holders: int


class Draining(Struct, frozen=True, array_like=True):
    """A backend that the operator drains, or no longer does."""

    model: str
    backend: str
    draining: bool


class Asked(Struct, frozen=True, array_like=True):
    """A question to all other workers."""

    name: str
    body: bytes


class Reloaded(Struct, frozen=True, array_like=True):
    """What a reload, or its preview, came to."""

    changes: Changes | None
    problems: list[str]
    stops: bool = False
    """True: it was refused since the server stops."""


def encode(value: Any) -> bytes:
    return _encode(value)


def decode(body: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(body, type=kind)
