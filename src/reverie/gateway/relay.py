"""Runs one generation: slot, backend, another backend if that one fails, release.

Rule 1: a backend's failure before its first event may be retried elsewhere; a failure that is the
client's own fault never is.

Rule 2: a failure after text was sent is mended by continuing from there elsewhere, if the answer
can be resumed (``continuation``). Nothing is ever sent twice.

Rule 3: what two backends answer to one request alike, before its first token, is no failure of
either.

Rule 4: the slot on a backend that failed is released before another slot is waited for.
"""

from __future__ import annotations

import time
from functools import partial

from reverie.backends.base import Enough, Take
from reverie.errors import BackendError, ClientError, Overloaded, ReverieError
from reverie.events import Event, Usage
from reverie.gateway.accounts.authentication import ANONYMOUS, Caller
from reverie.gateway.attempts import Attempts
from reverie.gateway.continuation import Continuation
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.scheduling.routing import affinity_of
from reverie.pending import Pending, done
from reverie.request import GenerateRequest


async def relay(
    pool: Pool,
    request: GenerateRequest,
    record: RequestRecord,
    caller: Caller = ANONYMOUS,
    *,
    send: Take,
    follows: bool = False,
) -> None:
    """Send on the batches of one generation, from whichever backends can give it.

    The last batch ends with ``Finish`` and ``Usage``. Cancelling this stops the engine.

    Args:
        caller: whose turn it is taken for, among the keys that wait.
        send: takes each batch, as ``Backend.generate`` has it. Before the last it raises nothing
            that a backend could have raised.
        follows: as in ``SlotRequest``.

    Raises:
        ReverieError: as ``Pool.acquire`` and ``Backend.generate``.
    """
    answer = Continuation(request)
    slot_request = SlotRequest(
        tokens=pool.within_context(request.size),
        key=caller.key_id,
        weight=caller.weight,
        affinity=affinity_of(request) if pool.has_choice else None,
        follows=follows,
    )
    attempts = Attempts(pool, answer, record, slot_request)
    while True:
        try:
            lease = await pool.acquire(attempts.slot_request)
        except ReverieError as error:
            raise attempts.unavailable(error) from None
        with lease:
            attempts.begin(lease)
            passing = _Passing(lease, attempts, answer, record, send)
            try:
                await lease.backend.generate(answer.request, passing.take)
            except (BackendError, ClientError, Overloaded) as error:
                attempts.failed(lease, error)
                if not answer.reached_max_tokens:
                    continue
                passing.last = answer.end()
                record.saw(passing.last)
        await done(send(passing.last))  # the slot is free by now, however slowly the client reads
        return


class _Passing:
    """Passes on what one backend gives of an answer. ``last`` is the answer's last batch."""

    __slots__ = (
        "_answer",
        "_attempts",
        "_begun",
        "_blocked",
        "_lease",
        "_record",
        "_send",
        "_sized",
        "last",
    )

    def __init__(
        self,
        lease: Lease,
        attempts: Attempts,
        answer: Continuation,
        record: RequestRecord,
        send: Take,
    ) -> None:
        self.last: list[Event] = []
        self._lease = lease
        self._attempts = attempts
        self._answer = answer
        self._record = record
        self._send = send
        self._sized = False
        self._begun = False
        self._blocked = 0.0  # seconds in which a slow client held the backend up

    def take(self, batch: list[Event]) -> Pending:
        attempts = self._attempts
        self._lease.on_batch()
        events = self._answer.accept(batch)
        if not self._sized and self._answer.prompt is not None:
            self._sized = True
            attempts.size_known(self._lease, self._answer.prompt.tokens)
        if not events:
            return None
        if not self._begun:
            self._begun = True
            attempts.got_further()
        self._record.saw(events)
        if isinstance(events[-1], Usage):
            self.last = events
            attempts.succeeded(self._lease, self._blocked)
            raise Enough
        pending = self._send(events)
        return None if pending is None else partial(self._wait, pending)

    async def _wait(self, pending: Pending) -> None:
        began = time.monotonic()
        await done(pending)
        self._blocked += time.monotonic() - began
