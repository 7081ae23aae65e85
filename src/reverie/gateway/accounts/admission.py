"""Admits a request: its size is measured, and the most that it may come to is reserved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reverie.errors import InsufficientQuota, RateLimitExceeded
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.accounts.reservation import Reservation, StoredReservation, Unrecorded
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.serving.served_models import ServedModel
from reverie.request import GenerateRequest
from reverie.store.answers import Claim, StoredAnswer
from reverie.store.reservations import ReservationRequest


class Admitted(NamedTuple):
    """A request's place in the ledger, and its generations with the sizes of their prompts."""

    place: Reservation | StoredAnswer
    requests: tuple[GenerateRequest, ...]


class Admission:
    """Admits requests to the ledger. Without a ledger, everything is allowed."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    async def admit(
        self,
        caller: Caller,
        model: ServedModel,
        requests: Sequence[GenerateRequest],
        record: RequestRecord,
        claim: Claim | None = None,
    ) -> Admitted:
        """Reserve the most that a request may come to, with all its generations.

        Raises:
            ContextLengthExceeded: its prompt fits no backend's context.
            Overloaded, ModelLoading, BackendError: as ``Pool.acquire``, if the model has to be
                loaded to count the prompt.
            ReverieError: as ``Ledger.reserve``.
        """
        limited = caller.limited or model.limits.tpm is not None
        measured = [
            await model.deployment.sizes.measure(
                request, limited=limited and self._ledger is not None
            )
            for request in requests
        ]
        if self._ledger is None:
            return Admitted(Unrecorded(), tuple(measured))
        try:
            place = await _reserve(self._ledger, caller, model, measured, record, claim)
        except (RateLimitExceeded, InsufficientQuota) as refusal:
            if not refusal.by_size:
                raise
            smaller = [await counted(caller, model, request) for request in measured]
            if sum(r.prompt_size for r in smaller) >= sum(r.prompt_size for r in measured):
                raise
            measured = smaller
            place = await _reserve(self._ledger, caller, model, measured, record, claim)
        return Admitted(place, tuple(measured))


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


async def _reserve(
    ledger: Ledger,
    caller: Caller,
    model: ServedModel,
    requests: Sequence[GenerateRequest],
    record: RequestRecord,
    claim: Claim | None,
) -> StoredReservation | StoredAnswer:
    tokens = prompt_tokens = max_tokens = 0
    for request in requests:
        most = model.pool.within_context(request.size)
        answer = min(most, request.max_tokens)
        max_tokens += answer
        if request.counts_prompt:
            prompt_tokens += min(most, request.prompt_size)
        tokens += most if request.counts_prompt else answer
    wanted = ReservationRequest(
        id=ledger.next_row(),
        request_id=record.id,
        key_id=caller.key_id,
        stored=caller.stored,
        model=model.name,
        names=model.names,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        prompt_estimate=sum(r.prompt_estimate for r in requests if r.counts_prompt),
        cost=model.price.most(prompt_tokens, max_tokens),
        price=model.price,
        model_limits=model.limits,
        claim=claim,
    )
    return await ledger.reserve(wanted, record)
