"""A backend for any OpenAI-compatible server, over TCP or a Unix socket.

Rule 1: the engine is always asked for a stream, even where the client wants none: only a stream
shows that the engine works, and only closing one stops it.

Rule 2: the events of one read are one batch, handed on at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from ssl import SSLContext
from typing import Any

from msgspec.structs import replace

from reverie.backends import prefill, tasks
from reverie.backends.base import Health, Take
from reverie.backends.client.address import public_url
from reverie.backends.decoding.reader import AnswerReader, Pieces
from reverie.backends.decoding.refusals import refusal
from reverie.backends.decoding.stops import StopWatch
from reverie.backends.encoding import counting, forced_tools, kinds, livepeer
from reverie.backends.encoding.json_schema import Converter
from reverie.backends.encoding.tasks import can_be_asked
from reverie.backends.headers import request_headers
from reverie.backends.health import HealthMonitor
from reverie.backends.passage import OnProgress, Passage
from reverie.backends.transport import Response, Transport
from reverie.errors import BackendError, ModelError
from reverie.events import Event
from reverie.log import fields
from reverie.request import GenerateRequest
from reverie.settings import BackendKind, BackendSettings
from reverie.tasks import R, TaskRequest

logger = logging.getLogger("reverie.backends")

_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_TIMEOUT = 5.0
"""Seconds to read the body of an error, which comes at once or not at all."""
_COUNT_TIMEOUT = 2.0
"""Seconds to count a prompt. An engine counts 100,000 tokens in about a quarter of one."""


class HttpBackend:
    """One server.

    Args:
        name: unique within the model, without secrets.
        model: the model's name on that server.
        first_token_timeout: seconds from the request to the first delta. An engine's report of its
            progress on the prompt restarts the clock; pings (SSE comments) don't.
        stall_timeout: seconds between two deltas. Pings don't count.
        socket: called at ``start`` for the Unix socket to use instead of the URL's host.
        tls: checks an https server's certificate; None: the system's authorities do.
        converter: what turns a JSON Schema into a constraint, if the engine is llama.cpp.
        prefills: whether a llama.cpp may go on with an assistant's message at the end unasked.
        environ: holds the server's key, under the configured name.
        probing: whether to check the server's health.
    """

    recovers = False
    capacity: int | None = None
    context: int | None = None
    failure: str | None = None
    health: Health | None = None

    def __init__(
        self,
        name: str,
        settings: BackendSettings,
        *,
        model: str,
        first_token_timeout: float,
        stall_timeout: float,
        socket: Callable[[], Path] | None = None,
        tls: SSLContext | None = None,
        converter: Converter = "gbnf",
        prefills: bool = True,
        environ: Mapping[str, str] = os.environ,
        probing: bool = False,
    ) -> None:
        self.name = name
        self.kind = kinds.kind_of("") if settings.kind == "auto" else settings.kind
        self.url = public_url(settings.url)
        self.slots = settings.slots
        self.weight = settings.weight
        self._settings = settings
        self._url, self._path = kinds.address(settings)
        self._model = model
        self._first_token_timeout = first_token_timeout
        self._stall_timeout = stall_timeout
        self._socket = socket
        self._tls = tls
        self._prefills = prefills
        self._converter: Converter = converter
        self._environ = environ
        self._transport: Transport | None = None
        self._cannot_count: set[BackendKind] = set()  # servers older than that route
        self._probing = probing
        self._monitor: HealthMonitor | None = None

    @property
    def can_continue(self) -> bool:
        return kinds.can_continue(self._settings, self.kind)

    @property
    def can_count(self) -> bool:
        return self.kind in counting.KINDS and self.kind not in self._cannot_count

    @property
    def ready(self) -> bool:
        return self._transport is not None

    @property
    def checked_by(self) -> Hashable:
        it = self._settings
        return self.kind, self._converter, it.continues, it.vision, it.image_urls

    def check(self, request: GenerateRequest) -> None:
        kinds.check(request, self.kind, self._converter, settings=self._settings)

    def set_timeouts(self, *, first_token: float, stall: float) -> None:
        self._first_token_timeout = first_token
        self._stall_timeout = stall

    async def start(self, on_change: Callable[[], None]) -> None:
        headers = request_headers(self._settings, self._environ)
        try:
            self._transport = Transport(
                self._url,
                headers=headers,
                connect_timeout=self._settings.connect_timeout,
                socket=str(self._socket()) if self._socket is not None else None,
                tls=self._tls,
            )
        except ValueError as error:
            raise ModelError(f"The URL {self.url} can't be used: {error}.") from error
        on_change()
        if self._probing:

            def on_result(health: Health) -> None:
                self.health = health
                self._detect_kind(health)
                on_change()

            self._monitor = HealthMonitor(self._transport, self._settings.kind, on_result)

    def probe_soon(self) -> None:
        if self._monitor is not None:
            self._monitor.probe_soon()

    async def stop(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            await monitor.stop()
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        kind = self.kind
        if self._transport is None or not self.can_count or isinstance(request.prompt, tuple):
            return None
        deadline = asyncio.get_running_loop().time() + _COUNT_TIMEOUT
        path, body = counting.question(
            kinds.encode(request, self._model, kind, self._converter), kind, request.prompt
        )
        try:
            async with self._transport.post(path, body, deadline) as response:
                answer = await response.read_all(counting.MAX_ANSWER_BYTES, deadline)
        except BackendError:
            return None
        if response.status in (404, 405, 501):
            self._cannot_count.add(kind)
        return counting.count_in(answer) if response.status == 200 else None

    def can_run(self, request: TaskRequest[Any]) -> bool:
        return can_be_asked(request, self.kind)

    async def run(self, request: TaskRequest[R]) -> R:
        transport, timeout = self._connected(), self._first_token_timeout
        return await tasks.run(transport, request, self._model, self.kind, timeout)

    def _connected(self) -> Transport:
        if self._transport is None:
            raise BackendError(
                "The model's backend can't be reached. Try again.", reason="it is stopped"
            )
        return self._transport

    async def generate(
        self, request: GenerateRequest, take: Take, on_progress: OnProgress | None = None
    ) -> None:
        watched = request.stop and request.tells_stop and self.kind not in kinds.TELLS_STOP
        pieces: Pieces = "joined" if request.stream else "merged"
        if watched or request.answer_so_far is not None:  # they are counted one by one
            pieces = "apart"
        if watched:
            take = StopWatch(request.stop).watching(take)
            request = replace(request, stop=())
        transport = self._connected()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._first_token_timeout
        kind = self.kind
        if kind == "llamacpp" and self._prefills and prefill.ends_with_assistant(request):
            await prefill.refuse_prefill(transport, deadline)
        payload = kinds.encode(request, self._model, kind, self._converter)
        path = self._path if request.prompt is None else kinds.COMPLETIONS
        async with transport.post(path, payload, deadline) as response:
            if response.status != 200:
                error = await response.read_all(_MAX_ERROR_BYTES, clock() + _ERROR_BODY_TIMEOUT)
                raise refusal(response.status, response.headers, error, request)
            reader = _new_reader(response, request, kind, pieces)
            timeouts = self._first_token_timeout, self._stall_timeout
            passage = Passage(reader, take, deadline, timeouts, on_progress)
            if await passage.run(response):
                await passage.finish(_last_events(reader, request, kind))

    def _detect_kind(self, health: Health) -> None:
        """Set the kind from the server's list of models, unless it is configured."""
        if self._settings.kind != "auto" or not health.owned_by:
            return
        kind = kinds.kind_of(health.owned_by)
        if kind != self.kind:
            logger.info("backend kind detected", extra=fields(backend=self.name, kind=kind))
            self.kind = kind


def _new_reader(
    response: Response, request: GenerateRequest, kind: BackendKind, pieces: Pieces
) -> AnswerReader:
    return AnswerReader(
        request,
        streamed=response.content_type == "text/event-stream",
        forced=kind == "llamacpp" and forced_tools.is_forced(request),
        continuous_usage=kind in kinds.CONTINUOUS_USAGE,
        pieces=pieces,
    )


def _last_events(reader: AnswerReader, request: GenerateRequest, kind: BackendKind) -> list[Event]:
    events = reader.end()
    if kind == "livepeer":
        return livepeer.correct_finish_reason(events, reader.deltas, request.max_tokens)
    return events
