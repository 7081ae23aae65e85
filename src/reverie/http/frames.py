"""One generation → frames: the bytes of one write each, encoded from one batch of events.

Rule: the ledger is settled before the last frame is yielded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from reverie.events import Delta, Event, Finish, Usage
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.kept_answers import Claim
from reverie.gateway.accounts.reservation import Reservation
from reverie.gateway.record import RequestRecord
from reverie.gateway.relay import relay
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.dialects.base import Encoder
from reverie.http.dialects.chunks import with_usage
from reverie.http.dialects.framing import EVENTS, Framing
from reverie.request import GenerateRequest

EVENT_END = b"\n\n"


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
    claim: Claim | None = None
    """Set if the request carries an ``Idempotency-Key``: its events are numbered and kept."""
    framing: Framing = EVENTS


class Source(NamedTuple):
    """Where the frames of one answer come from.

    ``encoder`` writes the error chunk if a stream breaks; None for a stored answer, which has none.
    """

    frames: AsyncGenerator[Frame, None]
    encoder: Encoder | None


async def generate(
    job: Job, reservation: Reservation, max_kept: int = 0
) -> AsyncGenerator[Frame, None]:
    """Generate the answer. Closing the iterator stops the engine.

    Args:
        max_kept: the size in bytes up to which an answer is kept for its claim.

    Raises:
        ReverieError: as ``relay`` and ``Reservation.settle``.
    """
    numbered = job.request.stream and job.framing.numbered
    kept = None if job.claim is None else _KeptCopy(max_kept, reservation.base, numbered=numbered)
    deltas: list[Delta] = []
    job.model.deployment.load_for_request()
    async with aclosing(relay(job.model.pool, job.request, job.record, job.caller)) as batches:
        async for batch in batches:
            finish, usage = _collect_deltas(batch, deltas)
            if finish is not None and usage is not None:
                job.model.deployment.sizes.learn(job.request, usage)
                data = _encode_end(job, deltas, finish, usage)
                if kept is not None:
                    data = kept.add(data)
                await reservation.settle(None if kept is None else kept.whole)
                yield Frame(data, last=True)
            elif job.request.stream:
                data = job.encoder.batch(deltas)
                deltas.clear()
                if job.request.continuous_usage:
                    data = with_usage(data, _usage_so_far(job))
                if data:
                    yield Frame(data if kept is None else kept.add(data), last=False)


def _usage_so_far(job: Job) -> Usage:
    record = job.record
    prompt = job.request.prompt_size if record.prompt_tokens is None else record.prompt_tokens
    return Usage(prompt, record.pieces, record.cached_tokens)


def _encode_end(job: Job, deltas: list[Delta], finish: Finish, usage: Usage) -> bytes:
    if job.request.stream:
        return job.encoder.batch(deltas) + job.encoder.end(finish, usage)
    return job.encoder.answer(deltas, finish, usage)


def _collect_deltas(batch: list[Event], deltas: list[Delta]) -> tuple[Finish | None, Usage | None]:
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


class _KeptCopy:
    """Numbers the events of an answer for ``Last-Event-ID``, and keeps a copy of all of them."""

    def __init__(self, limit: int, base: int, *, numbered: bool) -> None:
        self._limit = limit
        self._numbered = numbered
        self._last = base
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bytes:
        """Keep what is written next; return it with its numbers."""
        if self._numbered:
            data = b"".join(map(self._number, data.split(EVENT_END)[:-1]))
        self._size += len(data)
        if self._size <= self._limit:
            self._parts.append(data)
        else:
            self._parts.clear()
        return data

    @property
    def whole(self) -> bytes | None:
        """The whole answer; None if it is larger than the limit."""
        return b"".join(self._parts) if self._size <= self._limit else None

    def _number(self, event: bytes) -> bytes:
        self._last += 1
        return b"id: %d\n%b%b" % (self._last, event, EVENT_END)
