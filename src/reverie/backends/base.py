"""The one interface between the gateway and whatever generates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from reverie.events import Event
from reverie.request import GenerateRequest


class Backend(Protocol):
    """Something that serves one model."""

    name: str
    """For logs and metrics; unique within its model, stable, and without secrets."""
    slots: int
    """Requests that it runs at once."""
    recovers: bool
    """Whether it restarts by itself after a failure, so that waiting for it makes sense."""
    can_continue: bool
    """Whether it goes on from a request's ``answer_so_far``. One that can't would begin anew."""

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

    async def start(self, on_change: Callable[[], None]) -> None:
        """Begin; returns without waiting for readiness.

        ``on_change`` is called, in the event loop, whenever ``ready`` or ``failure`` changed.

        Raises:
            ModelError: it can never become ready as it is configured.
        """

    async def stop(self) -> None:
        """Release everything. Idempotent."""
