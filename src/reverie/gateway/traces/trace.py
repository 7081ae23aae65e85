"""What happened to one request, noted while it runs: the facts from which its spans are made.

Nothing here is encoded or sent: that is done once the request has ended. Of a request that isn't
sampled nothing is noted, and only engines get to know its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

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
NO_STEP = nullcontext()
"""What isn't noted."""
_bits = Random().getrandbits

Asked: TypeAlias = GenerateRequest | TaskRequest[Any]
OnEnd: TypeAlias = Callable[[Any], None]
"""Takes a request's record, which knows its trace."""


def new_id(size: int) -> bytes:
    """A random id of so many bytes, none of which is all zeros."""
    return (_bits(8 * size) or 1).to_bytes(size, "big")


class Step(Struct, frozen=True, gc=False):
    """Something that began and ended. Times are ``time.monotonic()`` seconds."""

    name: str
    began: float
    ended: float
    error: str | None = None
    """The code of what it failed with."""


class Note(Struct, frozen=True, gc=False):
    """Something that happened at one time."""

    name: str
    at: float


class Attempt(Struct, eq=False, gc=False):
    """One attempt on one backend, from the wait for a slot on."""

    queued: float
    before: Attempt | None
    """The attempt that failed, in whose place this one is; None: it is the first."""
    granted: float | None = None
    """None: it waits for a slot, or could have none."""
    span_id: bytes = b""
    backend: str = ""
    kind: str = ""
    url: str = ""
    position: int = 0
    after_tokens: int | None = None
    """Tokens of the answer that the client has from others; None: the answer begins here."""
    first_token: float | None = None
    ended: float | None = None
    error: str | None = None
    reason: str | None = None

    def begin(self, backend: Backend, position: int, after_tokens: int | None) -> None:
        """Note that a backend is asked now."""
        self.granted = time.monotonic()
        self.span_id = new_id(8)
        self.backend, self.kind, self.url = backend.name, backend.kind, backend.url
        self.position = position
        self.after_tokens = after_tokens

    def got_further(self) -> None:
        """Note the first events."""
        if self.first_token is None:
            self.first_token = time.monotonic()

    def end(self, error: ReverieError | None = None) -> None:
        """Note that the backend is done, or has failed; or that no slot could be had."""
        if self.ended is None:
            self.ended = time.monotonic()
            if error is not None:
                self.error = error.code
                self.reason = getattr(error, "reason", None)


class Endpoint(Struct, frozen=True, gc=False):
    """Where a request came in."""

    method: str
    scheme: str
    address: str | None
    port: int | None


class Trace(Struct, eq=False):
    """The facts of one request, or of one generation that outlives its request.

    Args:
        on_end: called at the request's end.
        claimed: its caller's place in a trace, which counts once the caller is admitted.
    """

    options: TraceOptions
    context: TraceContext
    on_end: OnEnd
    server: Endpoint | None = None
    """None: it is no request itself, but what is generated for one."""
    path: str = ""
    claimed: TraceContext | None = None
    parent_id: bytes = b""
    operation: str = ""
    parameters: Attributes = ()
    choices: int = 1
    request: Asked | None = None
    """What is asked, if content is to be sent."""
    attempts: tuple[Attempt, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()
    unfinished: int = 0
    """Steps that may end after the request."""

    @property
    def id(self) -> str:
        """The trace's id, as it is written everywhere."""
        return self.context.trace_id.hex()

    def admitted(self) -> None:
        """Take the caller's word for the trace, since it may use this server."""
        claimed, own = self.claimed, self.context
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
            self.on_end,
            parent_id=self.context.span_id,
            operation=self.operation,
            parameters=self.parameters,
            choices=self.choices,
            request=self.request,
        )
        self.request = None
        return own

    def queue_entered(self, before: Attempt | None = None) -> Attempt | None:
        """Note that a slot is wanted: an attempt begins. None: it isn't noted.

        Args:
            before: the attempt that failed.
        """
        if not self.context.sampled:
            return None
        attempt = Attempt(time.monotonic(), before)
        if len(self.attempts) < _MAX_NOTED:
            self.attempts += (attempt,)
        return attempt

    def asks(
        self, backend: Backend, attempt: Attempt | None, position: int, after_tokens: int | None
    ) -> None:
        """Note that a backend is asked now, which gets to know its place in the trace."""
        span_id = self.context.span_id
        if attempt is not None:
            attempt.begin(backend, position, after_tokens)
            span_id = attempt.span_id
        outgoing.set(self.context.line_for(span_id))

    def note(self, name: str) -> None:
        """Note something that happens now."""
        if self.context.sampled and len(self.notes) < _MAX_NOTED:
            self.notes += (Note(name, time.monotonic()),)

    def step(self, name: str) -> AbstractContextManager[None]:
        """Note how long something takes, and what it fails with."""
        return _Running(self, name) if self.context.sampled else NO_STEP

    def step_until(self, name: str, result: Future[None]) -> None:
        """Note how long something takes that nobody waits for."""
        if not self.context.sampled:
            return
        began = time.monotonic()
        self.unfinished += 1

        def ended(future: Future[None]) -> None:
            self.unfinished -= 1
            failure = None if future.cancelled() else future.exception()
            self.add(Step(name, began, time.monotonic(), getattr(failure, "code", None)))

        result.add_done_callback(ended)

    def end(self, record: Any) -> None:
        """Hand the request's record on, once it has ended."""
        if self.context.sampled:
            self.on_end(record)

    def add(self, step: Step) -> None:
        """Note a step that has ended."""
        if len(self.steps) < _MAX_NOTED:
            self.steps += (step,)


class _Running:
    """A step that takes as long as it is entered."""

    __slots__ = ("_began", "_name", "_trace")

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self._name = name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        error = None
        if failure is not None:
            error = failure.code if isinstance(failure, ReverieError) else "cancelled"
        self._trace.add(Step(self._name, self._began, time.monotonic(), error))
