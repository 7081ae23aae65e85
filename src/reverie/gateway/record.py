"""What happened to one request: the facts for its log line, its metrics and its settlement."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Self

from reverie.errors import (
    AnswerCancelled,
    BackendError,
    ClientGone,
    DeadlinePassed,
    ReverieError,
    ServerStopped,
)
from reverie.events import Delta, Event, Finish, Prompt, Usage
from reverie.gateway.metric_names import INTER_TOKEN
from reverie.gateway.traces.trace import NO_STEP, Asked, Trace
from reverie.log import write

logger = logging.getLogger("reverie.request")

Outcome = Literal["ok", "length", "cancelled", "failed", "refused", "stopped"]
CancelledBy = Literal["client", "operator", "deadline", "shutdown"]
_GAPS = INTER_TOKEN.buckets


class RequestRecord:
    """One request, from its first byte to its last. Times are ``time.monotonic()`` seconds."""

    __slots__ = (
        "at_end",
        "backend",
        "began",
        "cached_tokens",
        "cancel",
        "cancelled_by",
        "client",
        "completion_tokens",
        "cut_for_good",
        "ended",
        "error",
        "estimated",
        "failovers",
        "finish_reasons",
        "first_token",
        "gap_seconds",
        "gaps",
        "granted",
        "id",
        "joined",
        "key",
        "last_token",
        "model",
        "name",
        "on_prompt",
        "outcome",
        "pieces",
        "position",
        "prompt_tokens",
        "queue_timed_out",
        "queued",
        "reason",
        "reasoning_tokens",
        "replayed",
        "retries",
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
        self.queued: float | None = None
        self.queue_timed_out = False
        self.granted: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.gaps: list[int] = []
        """Tokens, by how long after the one before they came: for each bucket of the metric."""
        self.gap_seconds = 0.0
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
        self.retries = 0
        self.cut_for_good = False
        self.pieces = 0
        self.replayed: bool | None = None
        self.joined = False
        self.position = 0
        self.at_end: Callable[[], None] | None = None
        self.on_prompt: Callable[[], None] | None = None
        self.cancel: Callable[[ReverieError], None] | None = None
        self.cancelled_by: CancelledBy | None = None
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

    def step(self, name: str) -> AbstractContextManager[None]:
        """Note how long something takes, if the request is traced."""
        return NO_STEP if self.trace is None else self.trace.step(name)

    def saw(self, batch: Sequence[Event]) -> None:
        """Count the events of a batch that is about to be sent to the client."""
        now = time.monotonic()
        if self.first_token is None:
            self.first_token = now
        before = self.pieces
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
        if tokens := self.pieces - before:
            if (last := self.last_token) is None:
                self.gaps = [0] * (len(_GAPS) + 1)
            else:  # those that came together share the time since the one before them
                gap = now - last
                self.gaps[bisect_left(_GAPS, gap / tokens)] += tokens
                self.gap_seconds += gap
            self.last_token = now

    def add_gaps(self, parts: Sequence[RequestRecord]) -> None:
        """Count the gaps between tokens of several answers to this request, which have ended."""
        counted = [part.gaps for part in parts if part.gaps]
        self.gaps = [sum(each) for each in zip(*counted, strict=True)]
        self.gap_seconds = sum(part.gap_seconds for part in parts)

    def failed(self, error: ReverieError) -> None:
        """Note what ended the request early."""
        self.error = error.code
        self.reason = error.reason if isinstance(error, BackendError) else None
        if isinstance(error, ClientGone | AnswerCancelled):
            self.outcome = "cancelled"
            self.cancelled_by = error.by
        elif isinstance(error, ServerStopped):
            self.outcome = "stopped"
            self.cancelled_by = "shutdown"
        elif error.status < 500:
            self.outcome = "refused"
        else:
            self.outcome = "failed"
            self.cancelled_by = "deadline" if isinstance(error, DeadlinePassed) else None

    @property
    def queue_wait(self) -> float | None:
        """Seconds for which it waited for its first slot, or until it gave up; None: not at all."""
        if self.queued is None:
            return None
        return (self.granted or self.ended or time.monotonic()) - self.queued

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
        self.at_end = self.on_prompt = None  # or only the garbage collector would free this
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
