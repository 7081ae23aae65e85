"""The routes that generate: authenticate, read, parse, relay, write.

A raw ASGI handler, since this is the hot path: no dependency injection, no response object. Its
OpenAPI entry is in ``http.operations.openapi``.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from reverie.errors import ClientGone, MethodNotAllowed, RequestTimeout, ReverieError
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    CancelScope,
    Headers,
    Receive,
    Scope,
    Send,
    StreamWriter,
    read_body,
    respond,
    watch_disconnect,
)
from reverie.http.connection.failures import as_reverie_error
from reverie.http.connection.in_flight import InFlight
from reverie.http.connection.protocol import close_after, drop
from reverie.http.dialects.base import Dialect
from reverie.http.frames import Frame, Job, frames, rate_headers
from reverie.http.idempotency.replays import REPLAYED, Replays, claim_of
from reverie.http.idempotency.transcript import KeptAnswer
from reverie.http.request.body import parse
from reverie.request import GenerateRequest
from reverie.settings import ServerSettings
from reverie.store.answers import Claim, StoredAnswer

_LARGE_BODY = 128 * 1024
_JSON = (b"content-type", b"application/json")
_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Generate:
    """An ASGI application that answers one route in one dialect."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        registry: ModelRegistry,
        access: Access,
        admission: Admission,
        in_flight: InFlight,
        metrics: Metrics,
        replays: Replays,
    ) -> None:
        self._dialect = dialect
        self._registry = registry
        self._access = access
        self._admission = admission
        self._in_flight = in_flight
        self._metrics = metrics
        self._replays = replays

    @property
    def _settings(self) -> ServerSettings:
        return self._registry.settings.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(self._access.request_id(scope), scope["path"])
        try:
            await self._answer(scope, receive, send, record)
        except asyncio.CancelledError:
            record.failed(ClientGone("The server stopped."))
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
        if scope["method"] != "POST":
            raise MethodNotAllowed("POST")
        if not self._replays.runs(caller, scope):  # what runs may be joined during a drain
            self._in_flight.refuse_when_draining()
        body = await read_body(
            scope, receive, limit=self._settings.max_body_bytes, timeout=self._settings.body_timeout
        )
        if len(body) <= _LARGE_BODY:
            request = parse(body)
        else:  # in a thread, where it can't hold up everybody's tokens
            request = await asyncio.to_thread(parse, body)
        claim = claim_of(scope, self._dialect.name, body, stream=request.stream)
        del body
        try:
            model = self._choose(request, record, caller, claim)
        except ReverieError:
            if claim is None or (kept := await self._replays.kept(caller, claim)) is None:
                raise
            await self._replay(receive, send, record, kept, claim.after)
            return
        encoder = self._dialect.encoder(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            model=model.name,
            created=int(time.time()),
            include_usage=request.include_usage,
        )
        job = Job(caller, model, request, encoder, record, claim)
        with model.deployment.held():
            if request.stream:
                await self._stream(scope, receive, send, job)
            else:
                await self._collect(receive, send, job)

    def _choose(
        self, request: GenerateRequest, record: RequestRecord, caller: Caller, claim: Claim | None
    ) -> ServedModel:
        """Find the model, and refuse what one of its backends can't honour.

        The same request that runs already goes on with its model, whatever is served by now.
        """
        record.stream = request.stream
        if claim is not None and (model := self._replays.model_of(caller, claim)) is not None:
            record.model = model.name
            return model
        model = self._registry.models.find(request.model)
        record.model = model.name
        for backend in model.pool.backends:
            backend.check(request)
        return model

    @asynccontextmanager
    async def _cancellable(
        self, receive: Receive, *, joins: bool
    ) -> AsyncGenerator[CancelScope, None]:
        """Let the client's leaving, the deadline and a shutdown end what runs inside."""
        async with self._in_flight.running(
            self._settings.request_timeout, joins=joins
        ) as cancel_scope:
            watcher = asyncio.create_task(watch_disconnect(receive, cancel_scope))
            try:
                yield cancel_scope
            finally:
                watcher.cancel()

    async def _frames(self, job: Job, headers: Headers) -> AsyncGenerator[Frame, None]:
        """The answer's frames; before the first, ``headers`` gets what is known only then."""
        if job.claim is not None:
            made = self._replays.read(job, headers)
        else:
            reservation = await self._admission.admit(
                job.caller, job.model, job.request, job.record
            )
            assert not isinstance(reservation, StoredAnswer)
            headers += rate_headers(reservation.rate)
            made = frames(job, reservation)
        async with aclosing(made):
            async for frame in made:
                yield frame

    async def _collect(self, receive: Receive, send: Send, job: Job) -> None:
        """KeptAnswer with one JSON body."""
        headers = self._headers(job.record, _JSON)
        async with self._cancellable(receive, joins=job.claim is not None):
            async with aclosing(self._frames(job, headers)) as made:
                said = [frame async for frame in made]
            job.record.status = 200
            await respond(send, 200, b"".join([frame.data for frame in said]), headers)

    async def _replay(
        self, receive: Receive, send: Send, record: RequestRecord, kept: KeptAnswer, after: int
    ) -> None:
        """Give an answer again whose model is served no more."""
        begin = kept.begin(after)
        record.status, record.outcome, record.replayed = 200, "ok", True
        headers = self._headers(record, *(_STREAM if record.stream else [_JSON]), REPLAYED)
        async with self._cancellable(receive, joins=True):
            await respond(send, 200, kept.body, headers, begin=begin)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, job: Job) -> None:
        """KeptAnswer with Server-Sent Events, a write for each batch."""
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
            async with (
                self._cancellable(receive, joins=job.claim is not None) as cancel_scope,
                aclosing(self._frames(job, headers)) as made,
            ):
                writer.start(cancel_scope)
                async for frame in made:
                    await writer.write(frame.data, last=frame.last)
            record.status = 200
        except Exception as failure:
            error = as_reverie_error(failure, record.id)
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

    async def _refuse(
        self, scope: Scope, send: Send, record: RequestRecord, error: ReverieError
    ) -> None:
        """KeptAnswer with an error, or break off an answer that has begun."""
        record.failed(error)
        begun = record.status == 200
        record.status = self._dialect.status(error)
        if begun or isinstance(error, ClientGone):
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
    def _headers(record: RequestRecord, *headers: tuple[bytes, bytes]) -> Headers:
        return [(b"x-request-id", record.id.encode()), *headers]
