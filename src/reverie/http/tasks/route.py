"""One route: authenticate, read, parse, have it done, answer.

A plain ASGI callable. What is metered goes through the ledger and the model's pool as a generation
does; what costs an engine next to nothing (tokens) goes past both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from reverie.events import Finish, Usage
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.tasks import admit_task, ask_any, model_for, require_able, run_task
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    Headers,
    Receive,
    Scope,
    Send,
    respond,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.dialects import OPENAI
from reverie.http.dialects.base import Dialect
from reverie.http.recorded import RecordedRoute
from reverie.http.replies import JSON, id_headers, rate_headers, read_within, require_post
from reverie.http.tasks import embeddings, rerank, tokens
from reverie.http.tasks.asked import Asked
from reverie.tasks import Task

_LARGE = 128 * 1024
"""Bytes, or numbers, that take long enough to read or write to hold up other clients' tokens."""


class TaskRoute(NamedTuple):
    """What one route takes, and the sort of model that it needs.

    Without a ``task`` any model will do, and nothing is metered.
    """

    parse: Callable[[bytes], Asked[Any]]
    task: Task | None = None
    dialect: Dialect = OPENAI
    """The shape of its errors."""


ROUTES = {
    "/v1/embeddings": TaskRoute(embeddings.parse, "embed"),
    "/v1/rerank": TaskRoute(rerank.parse, "rerank"),
    "/tokenize": TaskRoute(tokens.parse_text),
    "/detokenize": TaskRoute(tokens.parse_tokens),
}


class RunTask(RecordedRoute):
    """An ASGI application that answers one route."""

    def __init__(
        self,
        route: TaskRoute,
        *,
        registry: ModelRegistry,
        access: Access,
        admission: Admission,
        in_flight: InFlight,
        metrics: Metrics,
    ) -> None:
        super().__init__(route.dialect, access, metrics)
        self._route = route
        self._registry = registry
        self._admission = admission
        self._in_flight = in_flight

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        caller = await self._access.admit(scope)
        record.admitted(caller.name)
        settings = self._registry.settings.server
        require_post(scope, settings)
        self._in_flight.refuse_when_draining()
        body = await read_within(settings, scope, receive)
        parse = self._route.parse
        asked = await asyncio.to_thread(parse, body) if len(body) > _LARGE else parse(body)
        del body
        headers = [*id_headers(self._dialect, record.id), JSON, *asked.told]
        async with self._in_flight.watched(scope, receive, settings.request_timeout, record=record):
            run = self._ask if self._route.task is None else self._run_metered
            answer = await run(asked, caller, record, headers)
            record.status = 200
            await respond(send, 200, answer, headers)

    async def _run_metered(
        self, asked: Asked[Any], caller: Caller, record: RequestRecord, headers: Headers
    ) -> bytes:
        """Reserve what it may use, have it done, and settle. ``headers`` get the limits' state."""
        assert self._route.task is not None
        model = model_for(self._registry.models, asked.model, self._route.task)
        record.model = model.name
        record.asked(asked.request)
        require_able(model, asked.request)
        with model.deployment.held():
            place, size = await admit_task(self._admission, caller, model, asked.request, record)
            headers += rate_headers(place.rate)
            result = await run_task(model, asked.request, record, caller)
            told = result.prompt_tokens
            count = min(size, asked.request.estimate) if told is None else told
            answer = await asyncio.to_thread(_written, asked, result, model.name, count, told)
            record.saw([Finish("stop"), Usage(count, 0, estimated=told is None)])
            await place.settle()
        return answer

    async def _ask(
        self, asked: Asked[Any], caller: Caller, record: RequestRecord, headers: Headers
    ) -> bytes:
        model = self._registry.models.find(asked.model)
        record.model = model.name
        record.asked(asked.request)
        with model.deployment.held():
            result = await ask_any(model, asked.request, caller)
        record.outcome = "ok"
        return await asyncio.to_thread(_written, asked, result, model.name, 0, 0)


def _written(asked: Asked[Any], result: Any, model: str, count: int, told: int | None) -> bytes:
    return msgspec.json.encode(asked.answer(result, model, count, told is None))
