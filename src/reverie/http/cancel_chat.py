"""``POST /v1/chat/completions/cancel``: ends an answer that runs under an ``Idempotency-Key``.

A client that leaves such an answer may come back for it, so its leaving ends nothing for a while.
One whose user said "stop" says so here, with the same key and the same body: only who asked for an
answer can end it, also where callers share an API key or need none.
"""

from __future__ import annotations

from typing import Any

from reverie.errors import InvalidHeader
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    Receive,
    Scope,
    Send,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.dialects import OPENAI
from reverie.http.idempotency.claim import claim_of
from reverie.http.idempotency.replays import Replays
from reverie.http.replies import answer_json, read_within, require_post

PATH = "/v1/chat/completions/cancel"


class CancelChat:
    """An ASGI application that ends an answer of ``/v1/chat/completions``."""

    def __init__(
        self, *, registry: ModelRegistry, access: Access, in_flight: InFlight, replays: Replays
    ) -> None:
        self._registry = registry
        self._access = access
        self._in_flight = in_flight
        self._replays = replays

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._access.request_id(scope)
        await answer_json(scope, send, OPENAI, request_id, self._cancel(scope, receive))

    async def _cancel(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """End it, and wait until it is settled. It isn't ``ended`` if it doesn't run (any more)."""
        settings = self._registry.settings.server
        caller = await self._access.admit(scope)
        require_post(scope, settings)
        body = await read_within(settings, scope, receive)
        claim = claim_of(scope, OPENAI.name, body, stream=False)
        if claim is None:
            raise InvalidHeader("Idempotency-Key", "Idempotency-Key says which answer to end.")
        found = await self._replays.find(caller, claim.key, claim.fingerprint or b"")
        running = None if found is None else found.running
        if running is not None:
            async with self._in_flight.watched(
                scope, receive, settings.request_timeout, joins=True
            ):
                await running.cancel()
        ended = running is not None
        if not ended:
            proof = claim.fingerprint or b""
            ended = await self._replays.cancel_elsewhere(caller, claim.key, proof)
        return {"object": "chat.completion.cancelled", "ended": ended}
