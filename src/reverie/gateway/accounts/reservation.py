"""One request's place in the ledger: what the rest of the gateway holds while the request runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from reverie.errors import RateStatus
from reverie.gateway.record import RequestRecord
from reverie.store.database.schema import MAX_COUNT
from reverie.store.reservations import Granted, ReservationRequest
from reverie.store.settlements import Amendment, Checkpoint, LedgerOutcome, Settlement
from reverie.times import now_ms

_SETTLE = "ledger settle"
_MIN_AMENDMENT = 64
"""Tokens that are worth a write while a request runs. Its settlement gives all of them back."""


class Reservation(Protocol):
    """A place in the ledger. If nothing else closes it, the end of the request's record does."""

    rate: RateStatus | None
    """What is left of the caller's limits."""
    base: int
    """The number after which the events of the answer are numbered, if they are."""

    async def settle(self, answer: bytes | None = None) -> None:
        """Close it with what the record says; return once that is durable. Idempotent.

        Args:
            answer: the whole answer, to be replayed to the same ``Idempotency-Key``.

        Raises:
            AccountsUnavailable: neither the store nor the journal could take it.
        """


class StoredReservation:
    """A request's open row.

    Args:
        close: makes a settlement of the row durable.
        amend: writes an amendment of the row soon.
    """

    __slots__ = (
        "_amend",
        "_checkpointed",
        "_close",
        "_limited",
        "_record",
        "_reserved_prompt",
        "_settled",
        "_subjects",
        "base",
        "rate",
        "request",
    )

    def __init__(
        self,
        request: ReservationRequest,
        granted: Granted,
        record: RequestRecord,
        close: Callable[[Settlement], asyncio.Future[None]],
        amend: Callable[[Amendment], object],
    ) -> None:
        self.rate = granted.rate
        self.base = granted.base
        self._limited = granted.limited
        self._subjects = granted.subjects
        self.request = request
        self._record = record
        self._close = close
        self._amend = amend
        self._settled = False
        self._checkpointed = 0
        self._reserved_prompt = request.prompt_tokens

    async def settle(self, answer: bytes | None = None) -> None:
        """As ``Reservation.settle``."""
        if self._settled:
            return
        self._settled = True
        outcome: LedgerOutcome = "length" if self._record.outcome == "length" else "ok"
        with self._record.step(_SETTLE):
            await self._close(self._settlement(outcome, answer))

    def end(self) -> None:
        """Close it as its record ended, without waiting. Idempotent."""
        if self._settled:
            return
        self._settled = True
        cancelled = self._record.outcome == "cancelled"
        durable = self._close(self._settlement("cancelled" if cancelled else "failed"))
        if self._record.trace is not None:
            self._record.trace.step_until(_SETTLE, durable)

    def on_prompt(self) -> None:
        """Give back what was reserved for the prompt beyond its size, which is known now.

        Another backend may tell more than one that failed: then some of it is reserved again.
        """
        request = self.request
        prompt = min(self._record.prompt_tokens or 0, request.prompt_tokens)
        is_little = 0 <= self._reserved_prompt - prompt < _MIN_AMENDMENT
        if self._settled or not self._limited or is_little:
            return
        self._reserved_prompt = prompt
        tokens = min(prompt + request.max_tokens, request.tokens)
        cost = request.price.most(prompt, request.max_tokens)
        self._amend(Amendment(request.id, tokens, cost, self._subjects))

    def checkpoint(self) -> Checkpoint | None:
        """How far the request has come, if that is further than at the last call."""
        pieces = self._record.pieces
        if pieces == self._checkpointed:
            return None
        self._checkpointed = pieces
        prompt, completion = self._counted()
        return Checkpoint(self.request.id, prompt, completion, self._first_token_at())

    def _settlement(self, outcome: LedgerOutcome, answer: bytes | None = None) -> Settlement:
        record = self._record
        by_engine = record.completion_tokens is not None and record.prompt_tokens is not None
        prompt, completion = self._counted()
        return Settlement(
            id=self.request.id,
            outcome=outcome,
            prompt_tokens=prompt,
            cached_tokens=min(prompt, record.cached_tokens),
            completion_tokens=completion,
            estimated=not by_engine or record.estimated,
            backend=record.backend,
            first_token_at=self._first_token_at(),
            ended_at=now_ms(),
            subjects=self._subjects,
            answer=answer,
        )

    def _counted(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer: the engine's counts, or else what was delivered.

        A request of which nothing was delivered used nothing.
        """
        record = self._record
        if record.completion_tokens is not None:
            prompt, completion = record.prompt_tokens or 0, record.completion_tokens
        elif record.pieces:
            prompt, completion = record.prompt_tokens or self.request.prompt_estimate, record.pieces
        else:
            return 0, 0
        return min(prompt, MAX_COUNT), min(completion, MAX_COUNT)  # sums of what engines told

    def _first_token_at(self) -> int | None:
        if self._record.first_token is None:
            return None
        ago = time.monotonic() - self._record.first_token
        return now_ms() - int(ago * 1000)
