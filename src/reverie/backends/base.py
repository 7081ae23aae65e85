"""The one interface between the gateway and whatever generates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from msgspec import Struct

from reverie.events import Event
from reverie.request import GenerateRequest


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


class Backend(Protocol):
    """Something that serves one model."""

    name: str
    """For logs and metrics; unique within its model, stable, and without secrets."""
    url: str
    """Where it is, for the operator, without secrets; empty: here."""
    slots: int
    """Requests that it runs at once."""
    weight: float
    """Its share of the model's requests, next to other backends of as many slots."""
    recovers: bool
    """Whether it restarts by itself after a failure, so that waiting for it makes sense."""

    @property
    def kind(self) -> str:
        """What it is, for the operator."""

    @property
    def can_continue(self) -> bool:
        """Whether it goes on from a request's ``answer_so_far``. Another would begin anew."""

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be worked on."""

    @property
    def capacity(self) -> int | None:
        """Tokens, prompts and answers, that all running requests may come to; None: any."""

    @property
    def context(self) -> int | None:
        """Tokens that one request may come to, prompt and answer; None: unknown."""

    @property
    def failure(self) -> str | None:
        """Why it can never become ready without help, for the operator; None otherwise."""

    @property
    def health(self) -> Health | None:
        """The latest probe; None while there was none, and of a backend that is never probed."""

    def check(self, request: GenerateRequest) -> None:
        """Refuse what this backend can't honour.

        Raises:
            UnsupportedParameter: naming the field.
        """

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Event], None]:
        """Generate, in batches of events that arrived together.

        The last batch ends with ``Finish`` and ``Usage``. Closing the iterator, or cancelling the
        task that waits on it, stops the engine's work at once.

        Raises:
            BackendError, BackendTimeout: the backend failed.
            ClientError: the engine refuses the request itself.
            ModelLoading, Overloaded: it can't take the request now.
        """

    def set_timeouts(self, *, first_token: float, stall: float) -> None:
        """Wait so many seconds for the first token of an answer, and for each next piece."""

    def probe_soon(self) -> None:
        """Probe it soon: a request failed there, or has no other backend left."""

    async def start(self, on_change: Callable[[], None]) -> None:
        """Begin; returns without waiting for readiness.

        ``on_change`` is called, in the event loop, whenever ``ready``, ``failure`` or ``health``
        changed.

        Raises:
            ModelError: it can never become ready as it is configured.
        """

    async def stop(self) -> None:
        """Release everything. Idempotent."""
