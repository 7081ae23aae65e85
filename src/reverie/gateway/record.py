"""What happened to one request: the facts for its log line, its metrics and its settlement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, Self

from reverie.errors import AnswerCancelled, BackendError, ClientGone, ReverieError, ServerStopped
from reverie.events import Delta, Event, Finish, Prompt, Usage
from reverie.gateway.traces.trace import Asked, Trace
from reverie.log import write

logger = logging.getLogger("reverie.request")

Outcome = Literal["ok", "length", "cancelled", "failed", "refused", "stopped"]


class RequestRecord:
    """One request, from its first byte to its last. Times are ``time.monotonic()`` seconds."""

    __slots__ = (
        "at_end",
        "backend",
        "began",
        "cached_tokens",
        "cancel",
        "client",
        "completion_tokens",
        "cut_for_good",
        "ended",
        "error",
        "estimated",
        "failovers",
        "finish_reasons",
        "first_token",
        "granted",
        "id",
        "key",
        "model",
        "name",
        "on_prompt",
        "outcome",
        "pieces",
        "position",
        "prompt_tokens",
        "reason",
        "reasoning_tokens",
        "replayed",
        "route",
        "status",
        "stream",
        "trace",
    )

    def __init__(self, id: str, route: str, name: str = "request") -> None:
        self.id = id
        self.name = name
        self.route = route
        self.began = time.monotonic()
        self.granted: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self.client: str | None = None
        self.key: str | None = None
        self.model: str | None = None
        self.backend: str | None = None
        self.stream: bool | None = None
        self.status = 0
        self.outcome: Outcome = "failed"
        self.finish_reasons: tuple[str, ...] = ()
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self.estimated = False
        self.failovers = 0
        self.cut_for_good = False
        self.pieces = 0
        self.replayed: bool | None = None
        self.position = 0
        self.at_end: Callable[[], None] | None = None
        self.on_prompt: Callable[[], None] | None = None
        self.cancel: Callable[[ReverieError], None] | None = None
        self.error: str | None = None
        self.reason: str | None = None
        self.trace: Trace | None = None

    def another(self, name: str) -> Self:
        """A record of a part of the same request."""
        other = type(self)(self.id, self.route, name)
        other.trace = self.trace
        return other

    def admitted(self, key: str) -> None:
        """Note who asks, and that it may."""
        self.key = key
        if self.trace is not None:
            self.trace.admitted()

    def asked(self, request: Asked, choices: int = 1) -> None:
        """Note what is asked."""
        if self.trace is not None:
            self.trace.asked(request, choices)

    def saw(self, batch: Sequence[Event]) -> None:
        """Count the events of a batch that is about to be sent to the client."""
        if self.first_token is None:
            self.first_token = time.monotonic()
        for event in batch:
            if isinstance(event, Delta):
                self.pieces += event.tokens
            elif isinstance(event, Prompt):
                self.prompt_tokens = event.tokens
                self.cached_tokens = event.cached_tokens
                if self.on_prompt is not None:
                    self.on_prompt()
            elif isinstance(event, Finish):
                self.outcome = "length" if event.reason == "length" else "ok"
                self.finish_reasons = (event.reason,)
            elif isinstance(event, Usage):
                self.prompt_tokens = event.prompt_tokens
                self.cached_tokens = event.cached_tokens
                self.completion_tokens = event.completion_tokens
                self.reasoning_tokens = event.completion_details.get("reasoning_tokens", 0)
                self.estimated = event.estimated

    def failed(self, error: ReverieError) -> None:
        """Note what ended the request early."""
        self.error = error.code
        self.reason = error.reason if isinstance(error, BackendError) else None
        if isinstance(error, ClientGone | AnswerCancelled):
            self.outcome = "cancelled"
        elif isinstance(error, ServerStopped):
            self.outcome = "stopped"
        elif error.status < 500:
            self.outcome = "refused"
        else:
            self.outcome = "failed"

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the request's arrival to its first token."""
        return None if self.first_token is None else self.first_token - self.began

    @property
    def duration(self) -> float:
        """Seconds from the request's arrival to its end, or until now."""
        return (self.ended or time.monotonic()) - self.began

    def close(self) -> None:
        """Settle what is still open, and write the one log line."""
        self.ended = time.monotonic()
        if self.at_end is not None:
            self.at_end()
        ttft = self.time_to_first_token
        write(
            logger,
            logging.WARNING
            if self.status >= 500 or self.outcome in ("failed", "stopped")
            else logging.INFO,
            self.name,
            id=self.id,
            route=self.route,
            client=self.client,
            key=self.key,
            model=self.model,
            backend=self.backend,
            stream=self.stream,
            status=self.status or None,
            outcome=self.outcome,
            error=self.error,
            reason=self.reason or None,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            pieces=self.pieces if self.completion_tokens is None and self.pieces else None,
            replayed=self.replayed,
            failovers=self.failovers or None,
            queued_at=self.position or None,
            queue_ms=None if self.granted is None else (self.granted - self.began) * 1e3,
            ttft_ms=None if ttft is None else ttft * 1e3,
            duration_ms=self.duration * 1e3,
            trace=None if self.trace is None else self.trace.id,
        )
        if self.trace is not None:
            self.trace.end(self)
