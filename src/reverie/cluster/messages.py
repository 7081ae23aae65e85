"""What gateways, the manager and engines tell each other. Sizes are in bytes, times in seconds.

Gateways exchange these with the manager over a child process each, which alone speaks to Ray.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, field

from reverie.settings import ModelSettings

PROTOCOL = 1
"""Counts up with each change of these messages. Gateways and managers of one cluster share it."""

ENGINE_KEYS = (
    *("source", "task", "engine", "slots", "context", "kv_tokens", "batch", "threads"),
    *("gpu_layers", "cache_type_k", "cache_mib"),
)
"""The keys of a model that its engines depend on."""


_FAMILY_KEYS = ("source", "task", "engine")


def _digest(what: object) -> str:
    written = msgspec.json.encode(what, order="sorted")
    return blake2b(written, digest_size=8).hexdigest()


class EngineSpec(Struct, frozen=True):
    """How each engine of a model runs."""

    model: str
    """The model's name, which its engines' answers carry."""
    settings: dict[str, Any]
    """The values of ``ENGINE_KEYS``."""
    gpus: float = 0.0
    """GPUs that one engine needs."""
    memory: int = 0
    """What one engine needs, by an estimate; 0: not known yet. The first engine tells."""

    @classmethod
    def of(cls, model: ModelSettings, memory: int = 0) -> EngineSpec:
        settings = {key: getattr(model, key) for key in ENGINE_KEYS}
        return cls(model.name, settings, model.gpus, memory)

    def model_settings(self) -> ModelSettings:
        """The model's settings, as far as its engines depend on them."""
        return ModelSettings(name=self.model, **self.settings)

    @property
    def digest(self) -> str:
        """Equal for specs whose engines can stand in for each other."""
        return _digest((self.model, self.settings, self.gpus))

    @property
    def family(self) -> str:
        """Equal for specs whose engines may serve side by side: while one of them replaces the
        other, and both run the same model."""
        return _digest([self.model, *map(self.settings.get, _FAMILY_KEYS)])


class Wanted(Struct, frozen=True):
    """What a gateway's configuration asks of the cluster for one model."""

    spec: EngineSpec
    least: int
    """Engines that run in any case."""
    most: int
    """Engines that may run."""
    idle: float
    """Seconds without need of an engine after which it is stopped."""
    generation: int
    """When this configuration was put in force, in milliseconds since 1970. Where gateways differ,
    the latest holds."""


EngineState: TypeAlias = Literal["fetching", "loading", "ready", "restarting", "failed"]
"""``fetching``: the model's file isn't on that machine yet. ``failed``: for good; ``why`` tells."""
EngineStep: TypeAlias = EngineState | Literal["leaving"]
MachineState: TypeAlias = Literal["up", "draining", "lost"]
"""The words for an engine and a machine wherever people are told of them."""


class EngineInfo(Struct, frozen=True):
    """What an engine tells of itself."""

    uid: str
    """No other engine had it. A name is used again, this isn't."""
    revision: int
    """Counts up with each change."""
    state: EngineState
    url: str = ""
    """``http://HOST:PORT/v1``, or https, once it has an address."""
    key: str = ""
    """What requests to it carry. Secret."""
    slots: int = 0
    context: int = 0
    """Tokens that one request may use."""
    kv_tokens: int = 0
    """Tokens that all running requests may use together; 0: no bound."""
    memory: int = 0
    """What it needs, by an estimate made of its file; 0: not known yet."""
    why: str = ""
    """Why it isn't ready, as a sentence for the operator."""
    seconds_to_ready: float | None = None
    """How long its latest start took, once it was ready."""

    def __repr__(self) -> str:  # without the key
        return f"EngineInfo({self.uid!r}, {self.state!r}, {self.url!r})"


class Engine(Struct, frozen=True):
    """One engine, as the manager sees it."""

    name: str
    """``MODEL/NUMBER``: a replacement has the same, so that conversations come home."""
    model: str
    digest: str
    """Of the spec that it was started with."""
    machine: str
    """The address of the machine that it runs on."""
    info: EngineInfo
    leaving: bool = False
    """True if it is to get no new request, and to be stopped once it has none."""
    family: str = ""
    """Of that spec; empty: not told."""

    @property
    def step(self) -> EngineStep:
        """Where it is in its life: its state, or that it is leaving."""
        return "leaving" if self.leaving else self.info.state


class ModelStatus(Struct, frozen=True):
    """A model, as the manager sees it."""

    model: str
    digest: str
    """Of the spec in force."""
    least: int
    most: int
    wanted: int
    """Engines that its requests need, within these bounds."""
    in_flight: int = 0
    """Requests that run, on all gateways."""
    waiting: int = 0
    """Requests that wait for a slot, on all gateways."""
    seconds_to_ready: float | None = None
    """How long an engine that is started now will probably take; None: not known yet."""
    why: str = ""
    """Why fewer engines run than are wanted, as a sentence; empty if none is missing, or if they
    only need time."""


class Machine(Struct, frozen=True):
    """One machine, as the manager sees it."""

    id: str
    """Ray's own."""
    address: str
    alive: bool
    draining: bool = False
    slots: int = 0
    """Engines that may run there at once."""
    free_slots: int = 0
    gpus: float = 0.0
    free_gpus: float = 0.0
    memory: int = 0
    free_memory: int = 0
    """Of ``memory``, what no engine there has reserved."""

    @property
    def state(self) -> MachineState:
        if not self.alive:
            return "lost"
        return "draining" if self.draining else "up"


class View(Struct, frozen=True):
    """The cluster, as the manager sees it at one moment."""

    incarnation: str
    """Of the manager: another one begins anew to count ``version``."""
    version: int
    complete: bool
    """False while a manager that has just started doesn't know yet which engines there are."""
    engines: list[Engine]
    """Those that are starting, run, or are leaving."""
    ended: list[str]
    """The ``uid`` of engines that are known to have ended, lately."""
    models: list[ModelStatus] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    gateways: int = 1
    """Gateways that have reported lately. Those share the engines."""
    reverie: str = ""
    """The version of Reverie that the manager runs."""


class Demand(Struct, frozen=True):
    """What one gateway needs of one model."""

    in_flight: int
    waiting: int


class Report(Struct, frozen=True):
    """What a gateway tells at short intervals, and at once when a request must wait."""

    gateway: str
    """A name that no other gateway has: it is made anew at each start."""
    demand: dict[str, Demand]
    """By model."""
    running: dict[str, int]
    """Its requests that run on each engine, by ``uid``."""
    incarnation: str = ""
    """Of the view that it applied last; empty before the first."""
    version: int = 0


class Loads(Struct, frozen=True, tag="loads"):
    """Manager → child → gateway, in answer to each report: what the other gateways do."""

    running: dict[str, int]
    """Their requests on each engine, by ``uid``, as they last told."""
    gateways: dict[str, int]
    """By model: those of them that have requests of it."""


# Between a gateway and its child: one message a line, as JSON.


class Deploy(Struct, frozen=True, tag="deploy"):
    """Gateway → child → manager: all that its configuration asks for."""

    gateway: str
    models: list[Wanted]


class Reported(Struct, frozen=True, tag="report"):
    """Gateway → child → manager."""

    report: Report


class Connected(Struct, frozen=True, tag="connected"):
    """Child → gateway: the manager answers."""

    reverie: str
    ray: str


class Disconnected(Struct, frozen=True, tag="disconnected"):
    """Child → gateway: it doesn't, or no longer. The child goes on trying."""

    why: str
    """One sentence for the operator."""


class Viewed(Struct, frozen=True, tag="view"):
    """Child → gateway: the cluster has changed."""

    view: View


Down: TypeAlias = Deploy | Reported
Up: TypeAlias = Connected | Disconnected | Viewed | Loads

T = TypeVar("T")


def encode(message: Struct) -> bytes:
    """One message as JSON without a line's end."""
    return msgspec.json.encode(message)


def decode(data: bytes, type: type[T]) -> T:
    """
    Raises:
        msgspec.DecodeError: it is no such message.
    """
    return msgspec.json.decode(data, type=type)
