"""The size of a prompt, and no answer: Anthropic's ``count_tokens``, OpenAI's ``input_tokens``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from reverie.gateway.accounts.admission import counted
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    Receive,
    Scope,
    Send,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.dialects.base import Dialect
from reverie.http.replies import answer_json, read_within, require_post
from reverie.request import GenerateRequest


class CountTokens:
    """An ASGI application. It counts as the model's engine does, or estimates where none can.

    Args:
        parse: reads a body, which is that of a request for an answer, less what only that needs.
        about: what the answer says beside the count.
    """

    def __init__(
        self,
        dialect: Dialect,
        parse: Callable[[bytes], GenerateRequest],
        *,
        registry: ModelRegistry,
        access: Access,
        in_flight: InFlight,
        about: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._dialect = dialect
        self._parse = parse
        self._about = about
        self._registry = registry
        self._access = access
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._access.request_id(scope)
        await answer_json(scope, send, self._dialect, request_id, self._count(scope, receive))

    async def _count(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        caller = await self._access.admit(scope)
        settings = self._registry.settings.server
        require_post(scope, settings)
        self._in_flight.refuse_when_draining()
        body = await read_within(settings, scope, receive)
        request = await asyncio.to_thread(self._parse, body)
        model = self._registry.models.find(request.model)
        model.check(request)
        with model.deployment.held():
            request = await counted(caller, model, request)
        return {**self._about, "input_tokens": request.likely_prompt}
