"""The routes that generate: authenticate, read, parse, relay, write.

A raw ASGI handler, since this is the hot path: no dependency injection, no response object. Its
OpenAPI entry is in ``http.openapi``.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from reverie.errors import (
    BackendTimeout,
    ClientGone,
    MethodNotAllowed,
    Overloaded,
    RequestTimeout,
    ReverieError,
    ServerError,
)
from reverie.events import Delta, Event, Finish, Usage
from reverie.gateway.admission import Admission
from reverie.gateway.auth import Caller
from reverie.gateway.ledger import Reservation
from reverie.gateway.metrics import Metrics
from reverie.gateway.models import ServedModel, ServedModels
from reverie.gateway.record import Record
from reverie.gateway.relay import relay
from reverie.http.body import parse
from reverie.http.dialects.base import Dialect, Encoder
from reverie.http.edge import Edge
from reverie.http.exchange import (
    Headers,
    Interruption,
    Receive,
    Scope,
    Send,
    StreamWriter,
    header,
    read_body,
    respond,
    watch_disconnect,
)
from reverie.http.protocol import close_after, drop
from reverie.log import fields
from reverie.request import GenerateRequest
from reverie.settings import ServerSettings

logger = logging.getLogger("reverie.request")

_LARGE_BODY = 128 * 1024
_JSON = (b"content-type", b"application/json")
_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class InFlight:
    """The generations that run now: what a drain waits for, and can cut short."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[Interruption] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def enter(self, interruption: Interruption) -> None:
        self._running.add(interruption)
        self._idle.clear()

    def leave(self, interruption: Interruption) -> None:
        self._running.discard(interruption)
        if not self._running:
            self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, error: ReverieError) -> None:
        for interruption in self._running:
            interruption.end(error)


class _Job(NamedTuple):
    """One generation that has been understood."""

    caller: Caller
    model: ServedModel
    request: GenerateRequest
    encoder: Encoder
    record: Record
    idempotency_key: bytes | None

    def batches(self) -> AsyncGenerator[list[Event], None]:
        return relay(self.model.pool, self.request, self.record, self.caller)


class Generate:
    """An ASGI application that answers one route in one dialect."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        models: ServedModels,
        edge: Edge,
        admission: Admission,
        settings: ServerSettings,
        in_flight: InFlight,
        metrics: Metrics,
    ) -> None:
        self._dialect = dialect
        self._models = models
        self._edge = edge
        self._admission = admission
        self._settings = settings
        self._in_flight = in_flight
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = Record(self._edge.request_id(scope), scope["path"])
        try:
            await self._answer(scope, receive, send, record)
        except asyncio.CancelledError:
            record.failed(ClientGone("The server stopped."))
            raise
        except Exception as failure:
            await self._refuse(scope, send, record, _understood(failure, record))
        finally:
            record.close()
            self._metrics.observe(record)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        caller = await self._edge.admit(scope)
        record.key = caller.name
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        self._refuse_when_draining()
        body = await read_body(
            scope, receive, limit=self._settings.max_body_bytes, timeout=self._settings.body_timeout
        )
        if len(body) <= _LARGE_BODY:
            request = parse(body)
        else:  # in a thread, where it can't hold up everybody's tokens
            request = await asyncio.to_thread(parse, body)
        del body
        model = self._choose(request, record)
        encoder = self._dialect.encoder(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            model=model.name,
            created=int(time.time()),
            include_usage=request.include_usage,
        )
        job = _Job(caller, model, request, encoder, record, header(scope, b"idempotency-key"))
        if request.stream:
            await self._stream(scope, receive, send, job)
        else:
            await self._collect(receive, send, job)

    def _refuse_when_draining(self) -> None:
        if self._in_flight.draining:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)

    def _choose(self, request: GenerateRequest, record: Record) -> ServedModel:
        """Find the model, and refuse what one of its backends can't honour."""
        model = self._models.find(request.model)
        record.model = model.name
        record.stream = request.stream
        for backend in model.pool.backends:
            backend.check(request)
        return model

    @asynccontextmanager
    async def _interruptible(self, receive: Receive) -> AsyncGenerator[Interruption, None]:
        """Let the client's leaving, the deadline and a shutdown end what runs inside."""
        loop = asyncio.get_running_loop()
        self._refuse_when_draining()  # it may have begun while the body came
        async with Interruption() as interruption:
            self._in_flight.enter(interruption)
            limit = self._settings.request_timeout
            deadline = loop.call_later(
                limit,
                interruption.end,
                BackendTimeout(f"The answer took more than {limit:g} s.", reason="request_timeout"),
            )
            watcher = loop.create_task(watch_disconnect(receive, interruption))
            try:
                yield interruption
            finally:
                deadline.cancel()
                watcher.cancel()
                self._in_flight.leave(interruption)

    async def _collect(self, receive: Receive, send: Send, job: _Job) -> None:
        """Answer with one JSON body."""
        deltas: list[Delta] = []
        finish, usage = None, None
        async with self._interruptible(receive):
            reservation = await self._reserve(job)
            async with aclosing(job.batches()) as batches:
                async for batch in batches:
                    finish, usage = _sort(batch, deltas)
            if finish is None or usage is None:
                raise AssertionError("a generation ended without its end")
            await reservation.settle()
        job.record.status = 200
        headers = self._headers(job.record, _JSON, *_rate_headers(reservation))
        await respond(send, 200, job.encoder.answer(deltas, finish, usage), headers)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, job: _Job) -> None:
        """Answer with Server-Sent Events, a write for each batch."""
        record = job.record
        headers = self._headers(record, *_STREAM)
        writer = StreamWriter(
            send,
            headers,
            commit_delay=self._settings.commit_delay,
            ping_interval=self._settings.ping_interval,
            write_timeout=self._settings.write_timeout,
        )
        try:
            async with self._interruptible(receive) as interruption:
                reservation = await self._reserve(job)
                headers += _rate_headers(reservation)
                writer.start(interruption)
                async with aclosing(job.batches()) as batches:
                    async for batch in batches:
                        deltas: list[Delta] = []
                        finish, usage = _sort(batch, deltas)
                        data = job.encoder.batch(deltas)
                        if finish is not None and usage is not None:
                            await reservation.settle()
                            end = job.encoder.end(finish, usage)
                            await writer.write(data + end, last=True)
                        elif data:
                            await writer.write(data)
            record.status = 200
        except Exception as failure:
            error = _understood(failure, record)
            if not writer.opened or isinstance(error, ClientGone):
                raise error from None
            record.failed(error)
            record.status = 200
            close_after(scope, self._settings.write_timeout)
            try:
                async with asyncio.timeout(self._settings.write_timeout):
                    await writer.write(job.encoder.error(error), last=True)
            except TimeoutError:  # nobody reads it
                await drop(scope)
        finally:
            await writer.stop()

    async def _reserve(self, job: _Job) -> Reservation:
        """Open the request's row in the ledger, within its key's limits."""
        return await self._admission.admit(
            job.caller, job.model, job.request, job.record, job.idempotency_key
        )

    async def _refuse(self, scope: Scope, send: Send, record: Record, error: ReverieError) -> None:
        """Answer with an error; nothing of an answer has been sent yet."""
        record.failed(error)
        record.status = self._dialect.status(error)
        if isinstance(error, ClientGone):
            await drop(scope)  # it may have stopped reading only
            return
        headers = [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
        if isinstance(error, RequestTimeout):
            headers.append((b"connection", b"close"))
        await respond(
            send,
            record.status,
            self._dialect.error_body(error),
            self._headers(record, _JSON, *headers),
        )

    @staticmethod
    def _headers(record: Record, *headers: tuple[bytes, bytes]) -> Headers:
        return [(b"x-request-id", record.id.encode()), *headers]


def _rate_headers(reservation: Reservation) -> Headers:
    if reservation.rate is None:
        return []
    return [(name.encode(), value.encode()) for name, value in reservation.rate.headers.items()]


def _understood(failure: Exception, record: Record) -> ReverieError:
    """A failure as an error of ours; one that isn't is a bug, and is logged as such, once."""
    if isinstance(failure, ReverieError):
        return failure
    logger.error("a request failed in Reverie itself", exc_info=failure, extra=fields(id=record.id))
    return ServerError("Something went wrong in the gateway. Its operator's log says what.")


def _sort(batch: list[Event], deltas: list[Delta]) -> tuple[Finish | None, Usage | None]:
    """Put a batch's deltas into ``deltas``; give its end, if it has one."""
    finish, usage = None, None
    for event in batch:
        if isinstance(event, Delta):
            deltas.append(event)
        elif isinstance(event, Finish):
            finish = event
        elif isinstance(event, Usage):
            usage = event
    return finish, usage
