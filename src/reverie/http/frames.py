"""One generation → frames: the bytes of one write each, encoded from one batch of events.

Rule: the ledger is settled before the last frame is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from reverie.events import Delta, Event, Finish, Usage
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.kept_answers import Claim
from reverie.gateway.accounts.reservation import Reservation
from reverie.gateway.record import RequestRecord
from reverie.gateway.relay import relay
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.dialects.base import Encoder
from reverie.http.dialects.chunks import with_usage
from reverie.http.dialects.framing import Framing
from reverie.http.idempotency.kept_copy import KeptCopy
from reverie.pending import Pending, done
from reverie.request import GenerateRequest


class Frame(NamedTuple):
    """The bytes of one write. ``last`` marks the end of a complete answer."""

    data: bytes
    last: bool
    source: object = None
    """The stored answer that this is a piece of: it is shared for as long as a frame refers to it.
    """


class Job(NamedTuple):
    """One request that was parsed and whose model was found."""

    caller: Caller
    model: ServedModel
    request: GenerateRequest
    encoder: Encoder
    record: RequestRecord
    framing: Framing
    claim: Claim | None = None
    """Set if the request carries an ``Idempotency-Key``: its events are numbered and kept."""
    more: tuple[GenerateRequest, ...] = ()
    """The generations of its other choices."""

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        return (self.request, *self.more)

    def measured(self, requests: tuple[GenerateRequest, ...]) -> Job:
        """The same with its requests measured."""
        if requests[0] is self.request and not self.more:
            return self
        return self._replace(request=requests[0], more=requests[1:])

    @property
    def numbered(self) -> bool:
        """True if its events carry numbers."""
        return self.claim is not None and self.request.stream and self.framing.numbered


Write: TypeAlias = Callable[[bytes, bool], Pending]
"""Takes the bytes of the next frame, and whether it is the last. No other comes before
what it leaves pending is done: it takes them as fast as its reader does."""


class Source(NamedTuple):
    """Where the frames of one answer come from.

    ``run`` writes all of them. ``encoder`` writes the error chunk if a stream breaks; None for a
    stored answer, which has none.
    """

    run: Callable[[Write], Awaitable[None]]
    encoder: Encoder | None


async def generate_one(job: Job, reservation: Reservation, write: Write, max_kept: int = 0) -> None:
    """Generate the answer. Cancelling this stops the engine.

    Args:
        max_kept: the size in bytes up to which an answer is kept for its claim.

    Raises:
        ReverieError: as ``relay`` and ``Reservation.settle``.
    """
    kept = kept_copy(job, reservation, max_kept)
    deltas: list[Delta] = []
    stream = job.request.stream
    job.model.deployment.load_for_request()

    def send(batch: list[Event]) -> Pending:
        finish, usage = collect_deltas(batch, deltas)
        if finish is not None and usage is not None:
            return partial(end, finish, usage)
        if not stream:
            return None
        data = _encode_pieces(job, deltas)
        deltas.clear()
        if not data:
            return None
        return write(data if kept is None else kept.add(data), False)

    async def end(finish: Finish, usage: Usage) -> None:
        job.model.deployment.sizes.learn(job.request, usage)
        data = _encode_end(job, deltas, finish, usage)
        if kept is not None:
            data = kept.add(data)
        await reservation.settle(None if kept is None else kept.whole)
        await done(write(data, True))

    await relay(job.model.pool, job.request, job.record, job.caller, send=send)


def kept_copy(job: Job, reservation: Reservation, limit: int) -> KeptCopy | None:
    """The copy that a job's answer needs; None if it is not to be kept."""
    return None if job.claim is None else KeptCopy(limit, reservation.base, numbered=job.numbered)


def _encode_pieces(job: Job, deltas: list[Delta]) -> bytes:
    data = job.encoder.batch(deltas)
    return with_usage(data, _usage_so_far(job)) if job.request.continuous_usage else data


def _usage_so_far(job: Job) -> Usage:
    record = job.record
    prompt = job.request.prompt_size if record.prompt_tokens is None else record.prompt_tokens
    return Usage(prompt, record.pieces, record.cached_tokens)


def _encode_end(job: Job, deltas: list[Delta], finish: Finish, usage: Usage) -> bytes:
    if job.request.stream:
        return _encode_pieces(job, deltas) + job.encoder.end(finish, usage)
    return job.encoder.answer(deltas, finish, usage)


def collect_deltas(batch: list[Event], deltas: list[Delta]) -> tuple[Finish | None, Usage | None]:
    """Append a batch's deltas to ``deltas``; return its end, if it has one."""
    finish, usage = None, None
    for event in batch:
        if isinstance(event, Delta):
            deltas.append(event)
        elif isinstance(event, Finish):
            finish = event
        elif isinstance(event, Usage):
            usage = event
    return finish, usage
