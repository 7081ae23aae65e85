"""One route: authenticate, read, parse, have it done, answer.

A plain ASGI callable. What is metered goes through the ledger and the model's pool as a generation
does; what costs an engine next to nothing (tokens) goes past both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from reverie.errors import ReverieError, ServerStopped
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
    as_reverie_error,
    read_body,
    respond,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.connection.protocol import drop
from reverie.http.dialects import OPENAI
from reverie.http.dialects.base import Dialect
from reverie.http.replies import JSON, id_headers, rate_headers, refuse, require_post
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


class RunTask:
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
        self._route = route
        self._registry = registry
        self._access = access
        self._admission = admission
        self._in_flight = in_flight
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(self._access.request_id(scope), scope["path"])
        self._metrics.began(record)
        try:
            await self._answer(scope, receive, send, record)
        except asyncio.CancelledError:
            record.failed(ServerStopped())
            raise
        except Exception as failure:
            await self._refuse(scope, send, record, as_reverie_error(failure, record.id))
        finally:
            record.close()
            self._metrics.observe(record)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        caller = await self._access.admit(scope)
        record.key = caller.name
        settings = self._registry.settings.server
        require_post(scope, settings)
        self._in_flight.refuse_when_draining()
        body = await read_body(
            scope, receive, limit=settings.max_body_bytes, timeout=settings.body_timeout
        )
        parse = self._route.parse
        asked = await asyncio.to_thread(parse, body) if len(body) > _LARGE else parse(body)
        del body
        headers = [*id_headers(self._route.dialect, record.id), JSON, *asked.told]
        async with self._in_flight.watched(receive, settings.request_timeout, record=record):
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
        with model.deployment.held():
            result = await ask_any(model, asked.request, caller)
        record.outcome = "ok"
        return await asyncio.to_thread(_written, asked, result, model.name, 0, 0)

    async def _refuse(
        self, scope: Scope, send: Send, record: RequestRecord, error: ReverieError
    ) -> None:
        """Answer with an error, or break off an answer that has begun."""
        record.failed(error)
        begun = record.status == 200
        record.status = self._route.dialect.status(error)
        if begun:
            await drop(scope)  # the client may have stopped reading only
        else:
            await refuse(scope, send, self._route.dialect, error, record.id)


def _written(asked: Asked[Any], result: Any, model: str, count: int, told: int | None) -> bytes:
    return msgspec.json.encode(asked.answer(result, model, count, told is None))
