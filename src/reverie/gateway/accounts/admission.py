"""Admits a request: its size is measured, and the most that it may come to is reserved."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from reverie.errors import InsufficientQuota, RateLimitExceeded, RateStatus
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.accounts.reservation import Reservation, StoredReservation
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.served_models import ServedModel
from reverie.request import GenerateRequest
from reverie.store.answers import Claim, StoredAnswer, fresh_event_base
from reverie.store.database.schema import MAX_COUNT
from reverie.store.reservations import ReservationRequest


class Admitted(NamedTuple):
    """A request's place in the ledger, and its generations with the sizes of their prompts."""

    place: Reservation | StoredAnswer
    requests: tuple[GenerateRequest, ...]


class Unrecorded:
    """The place of a request without a ledger: nothing is known of earlier requests."""

    rate: RateStatus | None = None

    def __init__(self) -> None:
        self.base = fresh_event_base(time.time())

    async def settle(self, answer: bytes | None = None) -> None:
        """Do nothing."""


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
        sizes = model.deployment.sizes
        measured = await _each_prompt_once(
            requests,
            lambda one: sizes.measure(one, limited=limited and self._ledger is not None),
        )
        if self._ledger is None:
            return Admitted(Unrecorded(), tuple(measured))
        try:
            size = _size_on(model.pool, measured)
            place = await _reserve(self._ledger, caller, model, size, record, claim)
        except (RateLimitExceeded, InsufficientQuota) as refusal:
            if not refusal.by_size:
                raise
            smaller = await _each_prompt_once(measured, lambda one: counted(caller, model, one))
            if sum(r.prompt_size for r in smaller) >= sum(r.prompt_size for r in measured):
                raise
            measured = smaller
            size = _size_on(model.pool, measured)
            place = await _reserve(self._ledger, caller, model, size, record, claim)
        return Admitted(place, tuple(measured))

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


async def _each_prompt_once(
    requests: Sequence[GenerateRequest],
    measure: Callable[[GenerateRequest], Awaitable[GenerateRequest]],
) -> list[GenerateRequest]:
    """The requests with their prompts measured; several for one prompt share its size."""
    if len(requests) == 1:
        return [await measure(requests[0])]
    measured: list[GenerateRequest] = []
    for request in requests:
        if request.counts_prompt or not measured:
            measured.append(await measure(request))
            continue
        same = measured[-1]
        measured.append(
            replace(
                request,
                prompt_size=same.prompt_size,
                prompt_counted=same.prompt_counted,
                prompt_key=same.prompt_key,
            )
        )
    return measured


class _Size(NamedTuple):
    """Tokens that a request may come to; ``estimate`` is of its prompt."""

    total: int
    prompt: int
    answer: int
    estimate: int


def _size_on(pool: Pool, requests: Sequence[GenerateRequest]) -> _Size:
    total = prompt = answer = estimate = 0
    for request in requests:
        most = pool.within_context(request.size)
        answer += min(most, request.max_tokens)
        if request.counts_prompt:
            total += most
            prompt += min(most, request.prompt_size)
            estimate += min(most, request.likely_prompt)
        else:
            total += min(most, request.max_tokens)
    return _Size(total, prompt, answer, estimate)


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
        tokens=min(size.total, MAX_COUNT),
        prompt_tokens=size.prompt,
        max_tokens=size.answer,
        prompt_estimate=size.estimate,
        cost=model.price.most(size.prompt, size.answer),
        price=model.price,
        model_limits=model.limits,
        claim=claim,
    )
    with record.step("ledger reserve"):
        return await ledger.reserve(wanted, record)
