"""``POST /v1/messages/count_tokens``: the size of a prompt, and no answer."""

from __future__ import annotations

import asyncio

import msgspec

from reverie.gateway.accounts.admission import counted
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    Receive,
    Scope,
    Send,
    as_reverie_error,
    read_body,
    respond,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.dialects import MESSAGES
from reverie.http.replies import JSON, id_headers, refuse, require_post
from reverie.http.request.messages import parse


class CountTokens:
    """An ASGI application. It counts as the model's engine does, or estimates where none can."""

    def __init__(self, *, registry: ModelRegistry, access: Access, in_flight: InFlight) -> None:
        self._registry = registry
        self._access = access
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._access.request_id(scope)
        try:
            tokens = await self._count(scope, receive)
        except Exception as failure:
            error = as_reverie_error(failure, request_id)
            await refuse(scope, send, MESSAGES, error, request_id)
        else:
            headers = [*id_headers(MESSAGES, request_id), JSON]
            await respond(send, 200, msgspec.json.encode({"input_tokens": tokens}), headers)

    async def _count(self, scope: Scope, receive: Receive) -> int:
        caller = await self._access.admit(scope)
        settings = self._registry.settings.server
        require_post(scope, settings)
        self._in_flight.refuse_when_draining()
        body = await read_body(
            scope, receive, limit=settings.max_body_bytes, timeout=settings.body_timeout
        )
        request, _ = await asyncio.to_thread(parse, body, counting=True)
        model = self._registry.models.find(request.model)
        model.check(request)
        with model.deployment.held():
            request = await counted(caller, model, request)
        return request.prompt_size if request.prompt_counted else request.prompt_estimate
