"""The routes that generate: authenticate, read, parse, relay, write.

A plain ASGI callable, since this is the hot path: no dependency injection, no response object. Its
OpenAPI entry is in ``http.operations.openapi``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from reverie.errors import ClientGone
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.kept_answers import Claim, StoredAnswer
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.choices import generate
from reverie.http.connection.exchange import (
    Headers,
    Receive,
    Scope,
    Send,
    as_reverie_error,
    header,
    respond,
)
from reverie.http.connection.extensions import chunk_writer
from reverie.http.connection.in_flight import InFlight, Run
from reverie.http.connection.protocol import close_after, drop
from reverie.http.connection.stream_writer import StreamWriter
from reverie.http.dialects.base import Asked, Dialect, Encoder
from reverie.http.frames import Job, Source, Write
from reverie.http.idempotency.claim import claim_of
from reverie.http.idempotency.replays import Replays
from reverie.http.recorded import RecordedRoute
from reverie.http.replies import JSON, id_headers, rate_headers, read_within, require_post
from reverie.pending import done
from reverie.settings import ServerSettings

_LARGE_BODY = 128 * 1024
"""Bytes of a body that takes long enough to parse to hold up other clients' tokens."""


class Call(NamedTuple):
    """One request that was parsed."""

    caller: Caller
    asked: Asked
    record: RequestRecord
    claim: Claim | None


_Opener: TypeAlias = Callable[[Headers], Awaitable[Source]]
"""Opens an answer's source, and completes its headers."""


class Generate(RecordedRoute):
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
        super().__init__(dialect, access, metrics)
        self._registry = registry
        self._admission = admission
        self._in_flight = in_flight
        self._replays = replays

    @property
    def _settings(self) -> ServerSettings:
        return self._registry.settings.server

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        caller = await self._access.admit(scope)
        record.admitted(caller.name)
        require_post(scope, self._settings)
        if header(scope, b"idempotency-key") is None:  # with it, a running answer may be joined
            self._in_flight.refuse_when_draining()
        body = await read_within(self._settings, scope, receive)
        parse = self._dialect.parse
        large = len(body) > _LARGE_BODY
        asked = await asyncio.to_thread(parse, body) if large else parse(body)
        record.stream = stream = asked.request.stream
        numbered = stream and self._dialect.framing.numbered
        claim = claim_of(scope, self._dialect.name, body, stream=numbered, own_key=asked.key)
        if asked.moves_model:
            claim = None
        del body
        answer = self._stream if stream else self._collect
        call = Call(caller, asked, record, claim)
        await answer(scope, receive, send, call, partial(self._open, call))

    async def _collect(
        self, scope: Scope, receive: Receive, send: Send, call: Call, open_source: _Opener
    ) -> None:
        """Answer with one JSON body."""
        headers = self._headers(call.record, JSON, *call.asked.told)
        parts: list[bytes] = []

        def keep(data: bytes, last: bool) -> None:
            parts.append(data)

        async with self._cancellable(scope, receive, call):
            source = await open_source(headers)
            await source.run(keep)
            call.record.status = 200
            await respond(send, 200, b"".join(parts), headers)

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, call: Call, open_source: _Opener
    ) -> None:
        """Answer with a stream: one write for each batch."""
        record = call.record
        headers = self._headers(record, *self._dialect.framing.headers, *call.asked.told)
        encoder: Encoder | None = None
        writer = StreamWriter(
            send,
            headers,
            commit_delay=self._settings.commit_delay,
            ping_interval=self._settings.ping_interval,
            write_timeout=self._settings.write_timeout,
            ping=self._dialect.ping,
            write_chunk=chunk_writer(scope),
        )
        try:
            async with self._cancellable(scope, receive, call) as cancel_scope:
                writer.start(cancel_scope)
                source = await open_source(headers)
                encoder = source.encoder
                await source.run(writer.write)
            record.status = 200
        except Exception as failure:
            error = as_reverie_error(failure, record.id)
            if not writer.opened or isinstance(error, ClientGone):
                raise error from None
            record.failed(error)
            record.status = 200
            chunk = (encoder or self._encoder(call)).error(error)
            await self._end_broken(scope, writer, chunk)
        finally:
            await writer.stop()

    async def _end_broken(self, scope: Scope, writer: StreamWriter, chunk: bytes) -> None:
        """End a stream with its error chunk, and close the connection."""
        close_after(scope, self._settings.write_timeout)
        try:
            async with asyncio.timeout(self._settings.write_timeout):
                await done(writer.write(chunk, True))
        except TimeoutError:  # the client doesn't read
            await drop(scope)

    def _cancellable(self, scope: Scope, receive: Receive, call: Call) -> Run:
        """Let the client's leaving, the deadline and a shutdown end what runs inside."""
        limit = self._settings.request_timeout
        joins = call.claim is not None
        return self._in_flight.watched(scope, receive, limit, joins=joins, record=call.record)

    async def _open(self, call: Call, headers: Headers) -> Source:
        """Where the answer comes from. ``headers`` is complete once its first frame is there."""
        prepare = partial(self._prepare, call)
        if call.claim is not None:
            return await self._replays.open(call.caller, call.claim, call.record, headers, prepare)
        job = prepare()
        return Source(partial(self._generate, job, headers), job.encoder)

    def _prepare(self, call: Call) -> Job:
        """Find the model, whose defaults fill in, and refuse what a backend of it can't honour.

        Raises:
            ModelNotFound, UnsupportedParameter
        """
        model = self._registry.models.find(call.asked.request.model)
        call.record.model = model.name
        request, *more = map(model.check, (call.asked.request, *call.asked.more))
        if request is not call.asked.request:
            call = call._replace(asked=call.asked._replace(request=request))
        encoder = self._encoder(call)
        framing, record = self._dialect.framing, call.record
        record.asked(request, 1 + len(more))
        return Job(call.caller, model, request, encoder, record, framing, call.claim, tuple(more))

    async def _generate(self, job: Job, headers: Headers, write: Write) -> None:
        """Reserve what the request may use, then generate."""
        deployment = job.model.deployment
        deployment.hold()
        try:
            reservation, requests = await self._admission.admit(
                job.caller, job.model, job.requests, job.record
            )
            assert not isinstance(reservation, StoredAnswer)
            headers += rate_headers(reservation.rate)
            await generate(job.measured(requests), reservation, write)
        finally:
            deployment.release()

    def _encoder(self, call: Call) -> Encoder:
        return self._dialect.encoder(
            call.asked,
            id=self._dialect.new_id(call.claim),
            model=call.record.model or call.asked.request.model,
            created=int(time.time()),
        )

    def _headers(self, record: RequestRecord, *headers: tuple[bytes, bytes]) -> Headers:
        return [*id_headers(self._dialect, record.id), *headers]
