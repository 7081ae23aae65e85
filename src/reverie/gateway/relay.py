"""Runs one generation: slot, backend, another backend if that one fails, release.

Rule 1: a backend's failure before its first event may be tried again elsewhere, never one that is
the client's own fault.

Rule 2: a failure after something was handed on is made good by going on from there elsewhere, if
``continuation`` finds no obstacle. Nothing is ever handed on twice.

Rule 3: a slot on a backend that failed is given back before another one is waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from reverie.backends.base import Backend
from reverie.errors import BackendError, BackendTimeout, ClientError, Overloaded, ReverieError
from reverie.events import Event, Usage
from reverie.gateway.auth import ANONYMOUS, Caller
from reverie.gateway.continuation import Continuation
from reverie.gateway.pool import Pool
from reverie.gateway.record import Record
from reverie.gateway.router import affinity_of
from reverie.log import fields
from reverie.request import GenerateRequest

logger = logging.getLogger("reverie.relay")

MAX_ATTEMPTS = 3
"""Backends that may fail in a row without having brought the answer further."""
MAX_FAILURES = 16
"""Backends that may fail over one answer: each costs the others a prompt."""


async def relay(
    pool: Pool, request: GenerateRequest, record: Record, caller: Caller = ANONYMOUS
) -> AsyncGenerator[list[Event], None]:
    """Yield the batches of one generation, from whichever backends can give it.

    The last batch ends with ``Finish`` and ``Usage``. Closing the iterator stops the engine.

    Args:
        caller: takes its turn among the keys that wait.

    Raises:
        ReverieError: as ``Pool.acquire`` and ``Backend.generate``.
    """
    answer = Continuation(request)
    attempts = _Attempts(pool, answer, record)
    tokens = pool.within_context(request.most_tokens())
    affinity = affinity_of(request)
    while True:
        try:
            lease = await pool.acquire(
                tokens,
                attempts.excluded,
                key=caller.key_id,
                weight=caller.weight,
                affinity=affinity,
                again=attempts.again,
                patient=answer.begun,
            )
        except ReverieError as error:
            attempts.ended(error)
            raise
        with lease:
            record.position = max(record.position, lease.position)
            record.granted = record.granted or time.monotonic()
            record.backend = lease.backend.name
            attempts.begin(lease.backend)
            before = answer.tokens
            held_up = 0.0
            last: list[Event] = []
            try:
                async with aclosing(lease.backend.generate(answer.request)) as batches:
                    async for batch in batches:
                        lease.brought()
                        events = answer.take(batch)
                        if not events:
                            continue
                        record.saw(events)
                        if isinstance(events[-1], Usage):
                            last = events
                            lease.succeeded(answer.tokens - before, held_up)
                            break
                        handed_on = pool.clock()
                        yield events
                        held_up += pool.clock() - handed_on
            except (BackendError, ClientError, Overloaded) as error:
                lease.failed(error)
                attempts.failed(lease.backend, error)
                if not answer.exhausted:
                    continue
                last = answer.end()
                record.saw(last)
        yield last  # the slot is free by now, however slowly the client reads
        return


class _Attempts:
    """Which backends failed one request, and whether another may be asked.

    ``excluded``: the names of those that may not be.
    """

    def __init__(self, pool: Pool, answer: Continuation, record: Record) -> None:
        self.excluded: frozenset[str] = frozenset()
        self._useless: frozenset[str] = frozenset()  # to be asked about this answer once more
        self._pool = pool
        self._answer = answer
        self._record = record
        self._failures = 0
        self._in_vain = 0
        self._cut: ReverieError | None = None
        self._cut_by = ""

    @property
    def again(self) -> bool:
        """Whether a backend has let the request down."""
        return self._failures > 0

    def begin(self, backend: Backend) -> None:
        """Note that a backend is asked now."""
        if self._cut is None:
            return
        self._log(
            "continuing on another backend", self._cut, **{"from": self._cut_by, "to": backend.name}
        )

    def failed(self, backend: Backend, error: ReverieError) -> None:
        """Make ready for the next attempt, if there can be one.

        Raises:
            ReverieError: ``error``, or what cut the answer, if there can't.
        """
        answer = self._answer
        if isinstance(error, ClientError) and (answer.progressed or not answer.resumed):
            raise error
        self._count(backend, error)
        if not answer.begun:
            if not self._may_try():
                raise error
            self._log("trying again", error, failed=backend.name)
            return
        if answer.progressed or self._cut is None:
            self._cut, self._cut_by = error, backend.name
        if answer.exhausted:
            return
        obstacle = answer.obstacle() or self._lack_of_backends(backend)
        if obstacle is not None:
            self._give_up(obstacle)
            raise self._cut
        answer.resume()
        self._record.failovers += 1

    def ended(self, error: ReverieError) -> None:
        """Note that there was no backend to be had."""
        if self._cut is not None:
            self._give_up(error.code)

    def _count(self, backend: Backend, error: ReverieError) -> None:
        """Exclude the backend that failed, unless it is known to be coming back.

        One that was silent for too long is excluded in any case: a second wait would be as long.
        So is one that refuses to go on.
        """
        self._failures += 1
        self._in_vain += 1
        if self._answer.progressed:
            self._in_vain = 0
            self.excluded = frozenset()
        if isinstance(error, (BackendTimeout, ClientError)):
            self._useless |= {backend.name}
        if not backend.recovers:
            self.excluded |= {backend.name}
        self.excluded |= self._useless

    def _lack_of_backends(self, last: Backend) -> str | None:
        """Exclude the backends that can't continue; say why none is left, if none is.

        A backend that failed before the last one did may be back by now.
        """
        backends = self._pool.backends
        if not any(backend.can_continue for backend in backends):
            return "no backend of the model can continue an answer"
        self._useless |= {backend.name for backend in backends if not backend.can_continue}
        self.excluded |= self._useless
        if not self._pool.can_take(self.excluded):
            self.excluded = self._useless
            if not last.recovers:
                self.excluded |= {last.name}
        return None if self._may_try() else "no other backend is left to try"

    def _may_try(self) -> bool:
        if self._in_vain >= MAX_ATTEMPTS or self._failures >= MAX_FAILURES:
            return False
        return self._pool.can_take(self.excluded)

    def _give_up(self, obstacle: str) -> None:
        assert self._cut is not None
        self._record.cut_for_good = True
        self._log("can't continue", self._cut, failed=self._cut_by, obstacle=obstacle)

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
