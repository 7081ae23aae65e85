"""The interface between the gateway and everything that generates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from reverie.events import Event
from reverie.pending import Pending
from reverie.request import GenerateRequest
from reverie.tasks import R, TaskRequest


class Health(Struct, frozen=True):
    """The result of one probe: a request that checks that a server answers, and never generates."""

    ok: bool
    checked_at: float
    """The probe's end, in ``time.time()`` seconds."""
    duration: float = 0.0
    """Seconds."""
    error_code: str = ""
    """Empty if it is ``ok``."""
    owned_by: str = ""
    """What the server's list of models says, if the probe read that."""
    timed_out: bool = False
    """No answer came in time, which may only mean that the server is busy."""


Take: TypeAlias = Callable[[list[Event]], Pending]
"""Takes a batch of events. No more come before what it leaves pending is done."""


class Enough(Exception):
    """Raised by whoever takes batches: the answer is complete, whatever else might come."""


class Backend(Protocol):
    """Something that serves one model."""

    name: str
    """For logs and metrics: unique within its model, stable, free of secrets."""
    url: str
    """Its address for the operator, free of secrets; empty if it runs here."""
    slots: int
    """The number of requests that it runs at once."""
    weight: float
    """Its share of the model's requests, relative to other backends with as many slots."""
    recovers: bool
    """True if it restarts by itself after a failure, so that waiting for it makes sense."""

    @property
    def kind(self) -> str:
        """The kind of engine, for the operator."""

    @property
    def can_continue(self) -> bool:
        """True if it continues a request's ``answer_so_far``. Others would start anew."""

    @property
    def can_count(self) -> bool:
        """True if its engine can be asked for the size of a prompt, once it is ready."""

    @property
    def ready(self) -> bool:
        """True if it accepts requests now."""

    @property
    def capacity(self) -> int | None:
        """The most tokens of all running requests, prompts and answers; None: no limit."""

    @property
    def context(self) -> int | None:
        """The most tokens of one request, prompt and answer; None: unknown."""

    @property
    def failure(self) -> str | None:
        """Why it can't become ready without help, for the operator; None otherwise."""

    @property
    def health(self) -> Health | None:
        """The result of the latest probe; None before the first, and if it is never probed."""

    @property
    def checked_by(self) -> Hashable:
        """What ``check`` goes by: backends where it is equal honour the same requests. It may
        change before ``on_change`` is called.
        """

    def check(self, request: GenerateRequest) -> None:
        """Refuse a request that this backend can't honour.

        Raises:
            UnsupportedParameter: naming the field.
        """

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        """The tokens of the request's prompt, by its engine; None if that can't say now."""

    async def generate(self, request: GenerateRequest, take: Take) -> None:
        """Generate an answer; hand its events on in batches as they arrive.

        The last batch ends with ``Finish`` and ``Usage``. Cancelling this, or raising ``Enough``
        in ``take``, stops the engine's work at once.

        Args:
            take: may be called by the event loop itself, in no task. What else it raises is raised
                here.

        Raises:
            BackendError, BackendTimeout: the backend failed.
            ClientError: the engine refuses this request.
            ModelLoading, Overloaded: it can't take the request now.
        """

    def can_run(self, request: TaskRequest[Any]) -> bool:
        """True if its engine knows such requests."""

    async def run(self, request: TaskRequest[R]) -> R:
        """Do what isn't generation. Cancelling this stops the engine's work at once.

        Raises:
            ReverieError: as ``generate``.
        """

    def set_timeouts(self, *, first_token: float, stall: float) -> None:
        """Set how many seconds to wait for the first token of an answer and for each next delta."""

    def probe_soon(self) -> None:
        """Probe it soon: a request failed there, or has no other backend left."""

    async def start(self, on_change: Callable[[], None]) -> None:
        """Start; return without waiting for readiness.

        ``on_change`` is called, in the event loop, whenever ``ready``, ``failure`` or ``health``
        changed.

        Raises:
            ModelError: it can't become ready as it is configured.
        """

    async def stop(self) -> None:
        """Release everything. Idempotent."""
