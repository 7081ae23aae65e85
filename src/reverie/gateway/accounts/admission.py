"""Admits a request: its size is measured, and the most that it may come to is reserved."""

from __future__ import annotations

from typing import NamedTuple

from reverie.errors import InsufficientQuota, RateLimitExceeded
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.accounts.reservation import Reservation, StoredReservation, Unrecorded
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.served_models import ServedModel
from reverie.request import GenerateRequest
from reverie.store.answers import Claim, StoredAnswer
from reverie.store.reservations import ReservationRequest


class Admitted(NamedTuple):
    """A request's place in the ledger, and the request with the size of its prompt."""

    place: Reservation | StoredAnswer
    request: GenerateRequest


class Admission:
    """Admits requests to the ledger. Without a ledger, everything is allowed."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    async def admit(
        self,
        caller: Caller,
        model: ServedModel,
        request: GenerateRequest,
        record: RequestRecord,
        claim: Claim | None = None,
    ) -> Admitted:
        """Reserve the most that a request may come to.

        Raises:
            ContextLengthExceeded: its prompt fits no backend's context.
            Overloaded, ModelLoading, BackendError: as ``Pool.acquire``, if the model has to be
                loaded to count the prompt.
            ReverieError: as ``Ledger.reserve``.
        """
        limited = caller.limited or model.limits.tpm is not None
        request = await model.deployment.sizes.measure(
            request, limited=limited and self._ledger is not None
        )
        if self._ledger is None:
            return Admitted(Unrecorded(), request)
        try:
            size = _size_on(model.pool, request)
            place = await _reserve(self._ledger, caller, model, size, record, claim)
        except (RateLimitExceeded, InsufficientQuota) as refusal:
            if not refusal.by_size:
                raise
            smaller = await counted(caller, model, request)
            if smaller.prompt_size >= request.prompt_size:
                raise
            request = smaller
            size = _size_on(model.pool, request)
            place = await _reserve(self._ledger, caller, model, size, record, claim)
        return Admitted(place, request)

    async def admit_task(
        self, caller: Caller, model: ServedModel, tokens: int, estimate: int, record: RequestRecord
    ) -> Reservation:
        """Reserve the tokens that a request for no generation may come to, all of its prompts.

        Raises:
            ReverieError: as ``Ledger.reserve``.
        """
        if self._ledger is None:
            return Unrecorded()
        size = _Size(tokens, tokens, 0, min(tokens, estimate))
        place = await _reserve(self._ledger, caller, model, size, record)
        assert not isinstance(place, StoredAnswer)
        return place


async def counted(caller: Caller, model: ServedModel, request: GenerateRequest) -> GenerateRequest:
    """The request with its prompt counted, if an engine can; the model is loaded for that."""
    sizes = model.deployment.sizes
    if request.prompt_counted or not sizes.countable:
        return request
    if not model.pool.ready:
        model.deployment.load_for_request()
        slot_request = SlotRequest(key=caller.key_id, weight=caller.weight)
        (await model.pool.acquire(slot_request)).release()
    return await sizes.measure(request, limited=True, exactly=True)


class _Size(NamedTuple):
    """Tokens that a request may come to; ``estimate`` is of its prompt."""

    total: int
    prompt: int
    answer: int
    estimate: int


def _size_on(pool: Pool, request: GenerateRequest) -> _Size:
    total = pool.within_context(request.size)
    prompt, answer = min(total, request.prompt_size), min(total, request.max_tokens)
    return _Size(total, prompt, answer, request.prompt_estimate)


async def _reserve(
    ledger: Ledger,
    caller: Caller,
    model: ServedModel,
    size: _Size,
    record: RequestRecord,
    claim: Claim | None = None,
) -> StoredReservation | StoredAnswer:
    wanted = ReservationRequest(
        id=ledger.next_row(),
        request_id=record.id,
        key_id=caller.key_id,
        stored=caller.stored,
        model=model.name,
        names=model.names,
        tokens=size.total,
        prompt_tokens=size.prompt,
        max_tokens=size.answer,
        prompt_estimate=size.estimate,
        cost=model.price.most(size.prompt, size.answer),
        price=model.price,
        model_limits=model.limits,
        claim=claim,
    )
    return await ledger.reserve(wanted, record)
