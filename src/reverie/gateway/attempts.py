"""The attempts at one answer: which backends failed it, whose fault that was, and who is next."""

from __future__ import annotations

import logging
import time
from typing import Any

from reverie.backends.base import Backend
from reverie.errors import (
    BackendTimeout,
    ClientError,
    EngineMemoryFull,
    Overloaded,
    ReverieError,
)
from reverie.gateway.blame import Blame
from reverie.gateway.continuation import Continuation
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.traces.trace import Attempt
from reverie.log import fields
from reverie.memory import forget_origin

logger = logging.getLogger("reverie.relay")

MAX_ATTEMPTS = 3
"""Failures in a row without a new token, after which an answer is given up."""
MAX_FAILURES = 16
"""Failures over one answer, after which it is given up: each costs another backend a prompt."""


class Attempts:
    """The backends that failed one request, and whether another may be asked.

    ``slot_request`` is the one for the next attempt.
    """

    def __init__(
        self, pool: Pool, answer: Continuation, record: RequestRecord, slot_request: SlotRequest
    ) -> None:
        self.slot_request = slot_request
        self._pool = pool
        self._answer = answer
        self._asked = answer.request
        self._record = record
        self._ruled_out: set[Backend] = set()  # never asked about this answer again
        self._failures = 0
        self._fruitless = 0
        self._cut: ReverieError | None = None  # what ended the last part of the answer
        self._latest: tuple[str, ReverieError] | None = None  # which backend failed, and how
        self._resuming = False
        self._tokens_before = 0
        self._size = 0  # of prompt and answer, once the prompt's is known
        self._blame = Blame()
        # the present attempt, if it is noted
        self._traced: Attempt | None = (
            None if record.trace is None else record.trace.queue_entered()
        )
        record.queued = record.queued or time.monotonic()

    @property
    def new_tokens(self) -> int:
        """Tokens that the present backend gave."""
        return self._answer.tokens - self._tokens_before

    def begin(self, lease: Lease) -> None:
        """Note that a backend is asked now; log it if it is to continue a cut answer."""
        backend, record = lease.backend, self._record
        record.position = max(record.position, lease.position)
        record.granted = record.granted or time.monotonic()
        record.backend = backend.name
        self._tokens_before = self._answer.tokens
        self._size = 0
        if record.trace is not None:
            after = None if self._cut is None else self._answer.tokens
            record.trace.asks(backend, self._traced, lease.position, after)
        if self._cut is None:
            return
        assert self._latest is not None
        self._resuming = True
        failed, error = self._latest
        where = "the same" if failed == backend.name else "another"
        self._log(f"continuing on {where} backend", error, **{"from": failed, "to": backend.name})

    def got_further(self) -> None:
        """Note the first events from the backend: a cut answer continues."""
        self._blame.another_got_further()
        if self._traced is not None:
            self._traced.got_further()
        if self._resuming:
            self._resuming = False
            self._record.failovers += 1

    def size_known(self, lease: Lease, prompt_tokens: int) -> None:
        """Note the prompt's true size, and what the request may come to by it."""
        if not self._size:
            self._size = self._pool.within_context(prompt_tokens + self._asked.max_tokens)
            lease.resize(self._size)

    def succeeded(self, lease: Lease, client_blocked: float = 0.0) -> None:
        """Note that the answer is complete; ``client_blocked`` as in ``Lease.succeeded``."""
        lease.succeeded(self.new_tokens, client_blocked)
        if self._traced is not None:
            self._traced.end()

    def failed(self, lease: Lease, error: ReverieError) -> None:
        """Count the failure, and prepare the next attempt.

        Raises:
            ReverieError: no attempt is left: ``error``, or the one that cut the answer.
        """
        self._blame.failed(lease, error)
        if self._traced is not None:
            self._traced.end(error)
        try:
            self._prepare(lease.backend, error)
        except ReverieError:
            self._blame.close()
            raise
        forget_origin(error)  # which leads to whoever holds this, and this holds the error
        if self._answer.reached_max_tokens:
            self._blame.close()
        elif self._record.trace is not None:
            self._traced = self._record.trace.queue_entered(self._traced)

    def _prepare(self, backend: Backend, error: ReverieError) -> None:
        answer = self._answer
        if isinstance(error, ClientError) and (answer.progressed or not answer.resumed):
            raise error
        self._note(backend, error)
        if not answer.begun:
            if self._why_no_backend() is not None:
                raise error
            self._record.retries += 1
            self._log("trying again", error, failed=backend.name)
            return
        if answer.progressed or self._cut is None:
            self._cut = error
        if answer.reached_max_tokens:
            return
        why = answer.why_not_resumable() or self._why_no_backend()
        if why is not None:
            self._give_up(why)
            raise self._cut
        answer.resume()

    def unavailable(self, error: ReverieError) -> ReverieError:
        """Note that no backend could be had; return the error for the client."""
        self._blame.close()
        if self._traced is not None:
            self._traced.end(error)
        self._record.queue_timed_out = isinstance(error, Overloaded) and error.timed_out
        if self._cut is None:
            return error
        self._give_up(error.code)
        return self._cut

    def _note(self, backend: Backend, error: ReverieError) -> None:
        """Count a failure, and exclude the backends that can't help.

        Before the answer begins, a backend that failed is asked again only if it has recovered or
        will. Once it has begun, the pool waits for backends to recover. A backend that was silent
        for too long is never asked again, since a second wait would be as long; neither is one that
        refuses to continue. Requests that together overflowed an engine's memory run one at a time.
        """
        answer = self._answer
        self._failures += 1
        memory_full = isinstance(error, EngineMemoryFull)
        if memory_full:  # a few tokens more are no progress then
            self._fruitless += 1
        elif answer.progressed:
            self._fruitless = 0
        elif not isinstance(error, Overloaded):  # the pool waits for the pause that it asked for
            self._fruitless += 1
        self._latest = backend.name, error
        if isinstance(error, (BackendTimeout, ClientError)):
            self._ruled_out.add(backend)  # itself: another may have its name by and by
        failed = (frozenset() if answer.progressed else self.slot_request.failed_on) | {
            backend.name
        }
        barred = {
            other.name
            for other in self._pool.backends
            if other in self._ruled_out
            or (
                not other.can_continue
                if answer.begun
                else other.name in failed and not (memory_full or self._pool.may_recover(other))
            )
        }
        self.slot_request = self.slot_request._replace(
            excluded=frozenset(barred),
            failed_on=failed,
            resuming=answer.begun,
            alone=self.slot_request.alone or memory_full,
        )

    def _why_no_backend(self) -> str | None:
        """Why no backend can be asked; None if one can."""
        if self._answer.begun and not any(b.can_continue for b in self._pool.examples):
            return "no backend of the model can continue an answer"
        if self._fruitless >= MAX_ATTEMPTS or self._failures >= MAX_FAILURES:
            return "too many backends failed"
        return None if self._pool.can_take(self.slot_request) else "no other backend is left to try"

    def _give_up(self, why: str) -> None:
        assert self._latest is not None
        self._record.cut_for_good = True
        failed, error = self._latest
        self._log("can't continue", error, failed=failed, why=why)

    def _log(self, message: str, error: ReverieError, **more: Any) -> None:
        logger.warning(
            message,
            extra=fields(
                id=self._record.id,
                model=self._pool.model,
                **more,
                after_tokens=self._answer.tokens if self._answer.begun else None,
                error=error.code,
                reason=getattr(error, "reason", None),
            ),
        )
