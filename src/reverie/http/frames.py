"""One generation → frames: bytes that are ready to be written, each what one batch came to.

The ledger is settled before the last frame is given out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from reverie.errors import RateStatus
from reverie.events import Delta, Event, Finish, Usage
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Reservation
from reverie.gateway.record import RequestRecord
from reverie.gateway.relay import relay
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.connection.exchange import Headers
from reverie.http.dialects.base import Encoder
from reverie.request import GenerateRequest
from reverie.store.answers import Claim

EVENT_END = b"\n\n"


class Frame(NamedTuple):
    """Bytes for one write. With ``last`` the answer is complete."""

    data: bytes
    last: bool
    of: object = None
    """The stored answer that it is a piece of, which is shared while somebody holds one."""


class Job(NamedTuple):
    """One generation that has been understood."""

    caller: Caller
    model: ServedModel
    request: GenerateRequest
    encoder: Encoder
    record: RequestRecord
    claim: Claim | None = None
    """Where it carries an ``Idempotency-Key``: its answer is numbered, and kept."""


async def frames(
    job: Job, reservation: Reservation, max_kept: int = 0
) -> AsyncGenerator[Frame, None]:
    """Generate. Closing the iterator stops the engine.

    Args:
        max_kept: bytes of an answer that is kept for its claim; a larger one is not.

    Raises:
        ReverieError: as ``relay`` and ``Reservation.settle``.
    """
    kept = (
        None
        if job.claim is None
        else _Kept(max_kept, reservation.base, numbered=job.request.stream)
    )
    deltas: list[Delta] = []
    job.model.deployment.load_for_request()
    async with aclosing(relay(job.model.pool, job.request, job.record, job.caller)) as batches:
        async for batch in batches:
            finish, usage = _sort(batch, deltas)
            if finish is not None and usage is not None:
                data = _end(job, deltas, finish, usage)
                if kept is not None:
                    data = kept.add(data)
                await reservation.settle(None if kept is None else kept.whole)
                yield Frame(data, last=True)
            elif job.request.stream:
                data = job.encoder.batch(deltas)
                deltas.clear()
                if data:
                    yield Frame(data if kept is None else kept.add(data), last=False)


def rate_headers(rate: RateStatus | None) -> Headers:
    """What is left of the caller's limits, as headers."""
    if rate is None:
        return []
    return [(name.encode(), value.encode()) for name, value in rate.headers.items()]


def _end(job: Job, deltas: list[Delta], finish: Finish, usage: Usage) -> bytes:
    if job.request.stream:
        return job.encoder.batch(deltas) + job.encoder.end(finish, usage)
    return job.encoder.answer(deltas, finish, usage)


def _sort(batch: list[Event], deltas: list[Delta]) -> tuple[Finish | None, Usage | None]:
    """Put a batch's deltas into ``deltas``; give its end, if it has one."""
    finish, usage = None, None
    for event in batch:
        if isinstance(event, Delta):
            deltas.append(event)
        elif isinstance(event, Finish):
            finish = event
        elif isinstance(event, Usage):
            usage = event
    return finish, usage


class _Kept:
    """An answer as it is kept: whole, and its events numbered, for ``Last-Event-ID``."""

    def __init__(self, limit: int, base: int, *, numbered: bool) -> None:
        self._limit = limit
        self._numbered = numbered
        self._last = base
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bytes:
        """Keep what is written next; give it with its numbers."""
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
        """All of it; None if that is more than the limit."""
        return b"".join(self._parts) if self._size <= self._limit else None

    def _number(self, event: bytes) -> bytes:
        self._last += 1
        return b"id: %d\n%b%b" % (self._last, event, EVENT_END)
