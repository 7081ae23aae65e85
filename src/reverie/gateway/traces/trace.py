"""What happened to one request, noted while it runs: the facts from which its spans are made.

Nothing here is encoded or sent: that is done once the request has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from reverie.errors import ReverieError
from reverie.gateway.traces.attributes import Attributes, operation_of, parameters_of
from reverie.gateway.traces.options import TraceOptions
from reverie.request import GenerateRequest
from reverie.tasks import TaskRequest
from reverie.trace_context import TraceContext, outgoing

if TYPE_CHECKING:
    from asyncio import Future

    from reverie.backends.base import Backend

_MAX_NOTED = 32
"""Steps of a kind that one request's spans are made of. More are left out."""
_random = Random()

Asked: TypeAlias = GenerateRequest | TaskRequest[Any]
OnEnd: TypeAlias = Callable[[Any], None]
"""Takes a request's record, which knows its trace."""


def new_id(size: int) -> bytes:
    """A random id of so many bytes, none of which is all zeros."""
    return (_random.getrandbits(8 * size) or 1).to_bytes(size, "big")


class Step(NamedTuple):
    """Something that began and ended. Times are ``time.monotonic()`` seconds."""

    name: str
    began: float
    ended: float
    error: str | None = None
    """The code of what it failed with."""


class Note(NamedTuple):
    """Something that happened at one time."""

    name: str
    at: float
    attributes: Attributes = ()


class Attempt:
    """One attempt on one backend."""

    __slots__ = (
        "after_tokens",
        "backend",
        "before",
        "ended",
        "error",
        "first_token",
        "granted",
        "kind",
        "position",
        "queued",
        "reason",
        "span_id",
        "url",
    )

    def __init__(
        self,
        backend: Backend,
        queued: float,
        position: int,
        after_tokens: int | None,
        before: Attempt | None,
    ) -> None:
        self.span_id = new_id(8)
        self.backend = backend.name
        self.kind = backend.kind
        self.url = backend.url
        self.queued = queued
        self.granted = time.monotonic()
        self.after_tokens = after_tokens
        """Tokens of the answer that the client has from others; None: the answer begins here."""
        self.before = before
        """The attempt that failed, in whose place this one is; None: it is the first."""
        self.position = position
        self.first_token: float | None = None
        self.ended: float | None = None
        self.error: str | None = None
        self.reason: str | None = None

    def got_further(self) -> None:
        """Note the first events."""
        if self.first_token is None:
            self.first_token = time.monotonic()

    def end(self, error: ReverieError | None = None) -> None:
        """Note that the backend is done, or has failed."""
        if self.ended is None:
            self.ended = time.monotonic()
            if error is not None:
                self.error = error.code
                self.reason = getattr(error, "reason", None)


class Endpoint(NamedTuple):
    """What a request was sent to."""

    method: str
    scheme: str
    path: str
    address: str | None
    port: int | None


class Trace:
    """The facts of one request, or of one generation that outlives its request.

    Args:
        claimed: its caller's place in a trace, which counts once the caller is admitted.
        on_end: called at the request's end.
    """

    __slots__ = (
        "_claimed",
        "_on_end",
        "attempts",
        "choices",
        "context",
        "epoch_ns",
        "notes",
        "operation",
        "options",
        "parameters",
        "parent_id",
        "request",
        "server",
        "steps",
        "waiting",
    )

    def __init__(
        self,
        options: TraceOptions,
        context: TraceContext,
        on_end: OnEnd,
        *,
        server: Endpoint | None = None,
        claimed: TraceContext | None = None,
        parent_id: bytes = b"",
    ) -> None:
        self.options = options
        self.context = context
        self.parent_id = parent_id
        self.server = server
        """None: it is no request itself, but what is generated for one."""
        self.epoch_ns = time.time_ns() - time.monotonic_ns()
        self.operation = ""
        self.parameters: Attributes = ()
        self.choices = 1
        self.request: Asked | None = None
        """What is asked, if content is to be sent."""
        self.attempts: list[Attempt] = []
        self.steps: list[Step] = []
        self.notes: list[Note] = []
        self.waiting: list[float] = []
        """Since when slots are waited for: until one is had, or for ever."""
        self._claimed = claimed
        self._on_end = on_end

    @property
    def id(self) -> str:
        """The trace's id, as it is written everywhere."""
        return self.context.trace_id.hex()

    def at(self, seconds: float) -> int:
        """A time on the monotonic clock, as nanoseconds since the epoch."""
        return self.epoch_ns + int(seconds * 1e9)

    def admitted(self) -> None:
        """Take the caller's word for the trace, since it may use this server."""
        claimed, own = self._claimed, self.context
        if claimed is not None:
            sampled = claimed.sampled if self.options.parent_based else own.sampled
            self.context = claimed._replace(span_id=own.span_id, sampled=sampled)
            self.parent_id = claimed.span_id

    def asked(self, request: Asked, choices: int) -> None:
        """Note what is asked, once it is known to be well-formed."""
        if self.context.sampled:
            self.operation = operation_of(request)
            self.parameters = parameters_of(request, latest=self.options.latest)
            self.choices = choices
            self.request = request if self.options.content else None

    def generation(self) -> Trace:
        """The trace of what is generated for this request and may outlive it. Content is there."""
        own = Trace(
            self.options,
            self.context._replace(span_id=new_id(8)),
            self._on_end,
            parent_id=self.context.span_id,
        )
        own.operation, own.parameters = self.operation, self.parameters
        own.choices, own.request = self.choices, self.request
        self.request = None
        return own

    def queue_entered(self) -> float:
        """Note that a slot is wanted; give the time."""
        now = time.monotonic()
        self.waiting.append(now)
        return now

    def queue_left(self, queued: float, error: ReverieError) -> None:
        """Note that no slot could be had."""
        self.waiting.remove(queued)
        self._add(Step("queue", queued, time.monotonic(), error.code))

    def attempt(
        self,
        backend: Backend,
        queued: float,
        position: int,
        after_tokens: int | None,
        before: Attempt | None,
    ) -> Attempt:
        """Note that a backend is asked now, which gets to know its place in the trace."""
        self.waiting.remove(queued)
        attempt = Attempt(backend, queued, position, after_tokens, before)
        if len(self.attempts) < _MAX_NOTED:
            self.attempts.append(attempt)
        outgoing.set(self.context.line_for(attempt.span_id))
        return attempt

    def note(self, name: str) -> None:
        """Note something that happens now."""
        if len(self.notes) < _MAX_NOTED:
            self.notes.append(Note(name, time.monotonic()))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note how long something takes, and what it fails with."""
        began = time.monotonic()
        error: str | None = "cancelled"
        try:
            yield
            error = None
        except ReverieError as failure:
            error = failure.code
            raise
        finally:
            self._add(Step(name, began, time.monotonic(), error))

    def watching(
        self, name: str, work: Callable[[Any], Future[None]]
    ) -> Callable[[Any], Future[None]]:
        """The same work, noted with how long its result took, which may come after the request."""

        def watched(subject: Any) -> Future[None]:
            began = time.monotonic()

            def ended(future: Future[None]) -> None:
                failure = None if future.cancelled() else future.exception()
                self._add(Step(name, began, time.monotonic(), getattr(failure, "code", None)))

            future = work(subject)
            future.add_done_callback(ended)
            return future

        return watched

    def end(self, record: Any) -> None:
        """Hand the request's record on, once it has ended."""
        if self.context.sampled:
            self._on_end(record)

    def _add(self, step: Step) -> None:
        if len(self.steps) < _MAX_NOTED:
            self.steps.append(step)
