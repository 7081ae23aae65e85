"""May this key do this now? Asked of the ledger, with what a request may come to at most."""

from __future__ import annotations

from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Ledger, Reservation, Unrecorded
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.served_models import ServedModel
from reverie.request import GenerateRequest
from reverie.store.answers import Claim, StoredAnswer
from reverie.store.reserve import Order


class Admission:
    """Opens a row of the ledger for each request; without a ledger, everything is allowed."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    async def admit(
        self,
        caller: Caller,
        model: ServedModel,
        request: GenerateRequest,
        record: RequestRecord,
        claim: Claim | None = None,
    ) -> Reservation | StoredAnswer:
        """Reserve what a request may come to.

        Args:
            claim: where it carries an ``Idempotency-Key``.

        Raises:
            RateLimitExceeded, InsufficientQuota, ModelNotAllowed, InvalidApiKey: as the key is.
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept: of the claim.
            AccountsUnavailable: the ledger can't be written now.
        """
        if self._ledger is None:
            return Unrecorded()
        tokens = model.pool.within_context(request.size)
        prompt_tokens = min(tokens, request.prompt_size)
        order = Order(
            id=self._ledger.next_row(),
            request_id=record.id,
            key_id=caller.key_id,
            stored=caller.stored,
            model=model.name,
            names=model.names,
            tokens=tokens,
            prompt_tokens=prompt_tokens,
            cost=model.price.of(prompt_tokens, 0, min(tokens, request.max_tokens)),
            price=model.price,
            model_limits=model.limits,
            claim=claim,
        )
        return await self._ledger.reserve(order, record)
