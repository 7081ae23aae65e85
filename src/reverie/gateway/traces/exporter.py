"""Sends the spans of requests that have ended to a collector, by OTLP over HTTP.

Rule 1: no request ever waits for this. What comes faster than the collector takes it is dropped,
and counted.

Rule 2: an outage is two lines in the log: when it begins, and when it is over.

Rule 3: spans are made in small steps, between which requests have their turn, and soon after their
requests: what they are made of is still in the processor's caches then.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import time
from collections import deque
from typing import NamedTuple

import reverie
from reverie.backends.client.address import public_url
from reverie.backends.transport import Transport
from reverie.background import Loop
from reverie.errors import BackendError, ConfigurationError
from reverie.gateway.metric_names import SPANS_DROPPED, SPANS_EXPORTED
from reverie.gateway.record import RequestRecord
from reverie.gateway.tallies import Tally
from reverie.gateway.traces.options import TraceOptions
from reverie.gateway.traces.spans import spans_of
from reverie.log import fields

logger = logging.getLogger("reverie.traces")

INTERVAL = 1.0
"""Seconds that a trace waits for others to be sent with."""
_BATCH_TRACES = 128
"""Traces that are sent without waiting for more."""
_MAX_TRACES = 4096
"""Ended requests that may wait for their spans to be made."""
_STEP_TRACES = 16
"""Traces whose spans are made in one go, as soon as so many requests have ended: less than a
millisecond."""
_STEP_BYTES = 128 * 1024
"""Bytes of spans after which a step ends early: prompts and answers may be in them."""
_MAX_SETTLING = 10.0
"""Seconds for which a trace waits for steps that its request didn't wait for."""
_MAX_BATCH_BYTES = 1024 * 1024
"""Of one request to the collector, before compression. Collectors take 4 MiB or more."""
_MAX_QUEUE_BYTES = 16 * 1024 * 1024
"""Of what waits for the collector, compressed."""
_SMALL = 16 * 1024
"""Bytes that are compressed at once rather than in a thread."""
_TIMEOUT = 10.0
"""Seconds for one request to the collector."""
_MAX_ANSWER = 64 * 1024
_RETRIED = (429, 502, 503, 504)
"""Statuses after which the same spans may be sent again (OTLP)."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_MAX_RETRY_AFTER = 120.0
MAX_AGE = 300.0
"""Seconds for which a batch is tried again."""
STOP_TIMEOUT = 2.0
"""Seconds in which a server that stops sends what is left."""

_MISSING = (
    'traces.endpoint: traces need a package that isn\'t installed: pip install "reverie[otel]"'
)


class _Batch(NamedTuple):
    body: bytes
    spans: int
    made: float


class _Refused(Exception):
    """The collector doesn't take a batch.

    Args:
        again: seconds until another try makes sense; 0: soon; None: never.
    """

    def __init__(self, reason: str, again: float | None) -> None:
        super().__init__(reason)
        self.again = again


class Exporter:
    """The way of spans to one collector.

    Args:
        instance: tells this process from others of the same service.

    Raises:
        ConfigurationError: what encodes spans isn't installed, or the endpoint can't be used.
    """

    def __init__(self, options: TraceOptions, *, instance: str) -> None:
        try:
            from reverie.gateway.traces import otlp
        except ModuleNotFoundError:
            raise ConfigurationError([_MISSING]) from None
        self._otlp = otlp
        self.url = public_url(options.endpoint)
        """Where spans are posted to, for the operator."""
        base, _, self._path = options.endpoint.rpartition("/")
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "Accept-Encoding": "identity",
            "User-Agent": f"reverie/{reverie.__version__}",
            **options.headers,
        }
        try:
            self._transport = Transport(base, headers=headers, connect_timeout=5.0, socket=None)
        except ValueError as error:
            raise ConfigurationError([f"traces.endpoint: can't be used: {error}"]) from None
        self._resource = otlp.encode_resource(
            {
                **options.resource,
                "service.name": options.service,
                "service.version": reverie.__version__,
                "service.instance.id": instance,
                "telemetry.sdk.name": "reverie",
                "telemetry.sdk.language": "python",
                "telemetry.sdk.version": reverie.__version__,
            }
        )
        self._scope = otlp.encode_scope(reverie.__version__)
        self._exported = Tally(SPANS_EXPORTED)
        self._dropped = Tally(SPANS_DROPPED)
        self._exported.expect()
        for reason in ("queue_full", "refused", "unreachable", "unencodable"):
            self._dropped.expect(reason)
        self.tallies = self._exported, self._dropped
        self._ended: deque[RequestRecord] = deque()
        self._spans: list[bytes] = []
        """The next batch, whose traces are ``_made`` and whose bytes ``_made_bytes``."""
        self._made = 0
        self._made_bytes = 0
        self._batches: deque[_Batch] = deque()
        self._queued_bytes = 0
        self._lost = 0  # spans, since the outage began
        self._outage = False
        self._encoding = asyncio.Lock()
        """Held while spans are in no queue: taken from one, and not in the next yet."""
        self._any_ended = asyncio.Event()
        self._enough_ended = asyncio.Event()
        self._any_batch = asyncio.Event()
        self._stopping = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._loops: list[Loop] = []

    def add(self, record: RequestRecord) -> None:
        """Take a request that has ended."""
        if len(self._ended) >= _MAX_TRACES:
            self._drop(1, "queue_full")
            return
        self._ended.append(record)
        self._any_ended.set()
        if not len(self._ended) % _STEP_TRACES:
            self._enough_ended.set()

    def start(self) -> None:
        """Begin to make spans and to send them."""
        self._loops = [
            Loop("trace spans", self._keep_encoding, harmless=True),
            Loop("trace export", self._keep_sending, harmless=True),
        ]

    async def stop(self) -> None:
        """Send what is left, once, within ``STOP_TIMEOUT``. Idempotent."""
        loops, self._loops = self._loops, []
        if loops:
            async with self._encoding:
                await loops[0].stop()
            await self._encode_ended(at_once=True)
            self._stopping.set()
            self._any_batch.set()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._all_sent.wait()
            except TimeoutError:
                pass
            await loops[1].stop()
            self._give_up()
        await self._transport.close()

    # Making spans -------------------------------------------------------------------------

    async def _keep_encoding(self) -> None:
        while True:
            await self._any_ended.wait()
            try:
                async with asyncio.timeout(INTERVAL):
                    while self._made < _BATCH_TRACES and self._made_bytes < _MAX_BATCH_BYTES:
                        await self._enough_ended.wait()
                        self._enough_ended.clear()
                        self._encode_some()
            except TimeoutError:
                pass
            await self._encode_ended()

    async def _encode_ended(self, *, at_once: bool = False) -> None:
        """Make batches of the requests that have ended by now.

        Args:
            at_once: even of those that have steps which haven't ended.
        """
        async with self._encoding:
            self._any_ended.clear()
            left = len(self._ended)
            while left > 0 and self._ended:
                left -= self._encode_some(at_once=at_once)
                if self._made_bytes >= _MAX_BATCH_BYTES:
                    await self._enqueue()
                elif left > 0:
                    await asyncio.sleep(0)
            if self._spans:
                await self._enqueue()
            self._made = 0
            if self._ended:
                self._any_ended.set()

    def _encode_some(self, *, at_once: bool = False) -> int:
        """Make the spans of some requests; give how many were looked at."""
        size = looked_at = 0
        most = min(len(self._ended), _STEP_TRACES)
        while looked_at < most and size < _STEP_BYTES:
            looked_at += 1
            record = self._ended.popleft()
            if not at_once and _is_settling(record):
                self._ended.append(record)
                continue
            encoded = self._encode(record)
            self._spans += encoded
            self._made += 1
            size += sum(map(len, encoded))
        self._made_bytes += size
        return looked_at

    def _encode(self, record: RequestRecord) -> list[bytes]:
        trace = record.trace
        assert trace is not None
        encode = self._otlp.encode_span
        try:
            epoch_ns = time.time_ns() - time.monotonic_ns()
            first, *others = spans_of(record, trace, epoch_ns)
            is_remote = bool(first.parent_id) and trace.server is not None
            context = trace.context
            return [
                encode(first, context, is_remote=is_remote),
                *(encode(span, context) for span in others),
            ]
        except Exception as failure:  # one odd request must not cost the others their traces
            self._drop(1, "unencodable")
            logger.error(
                "a trace can't be written",
                exc_info=failure,
                extra=fields(id=record.id, reason=type(failure).__name__),
            )
            return []

    async def _enqueue(self) -> None:
        spans, self._spans = self._spans, []
        self._made_bytes = 0
        data = self._otlp.encode_request(self._resource, self._scope, spans)
        small = len(data) <= _SMALL
        body = gzip.compress(data, 1) if small else await asyncio.to_thread(gzip.compress, data, 1)
        self._batches.append(_Batch(body, len(spans), time.monotonic()))
        self._queued_bytes += len(body)
        while self._queued_bytes > _MAX_QUEUE_BYTES:
            self._drop(self._take().spans, "queue_full")
        if self._batches:
            self._any_batch.set()

    def _take(self) -> _Batch:
        batch = self._batches.popleft()
        self._queued_bytes -= len(batch.body)
        return batch

    def _drop(self, spans: int, reason: str) -> None:
        self._dropped.add(reason, count=spans)
        self._lost += spans

    # Sending ------------------------------------------------------------------------------

    async def _keep_sending(self) -> None:
        while True:
            await self._any_batch.wait()
            while self._batches:
                await self._deliver(self._take())
            if self._stopping.is_set():
                self._all_sent.set()
                return
            self._any_batch.clear()

    async def _deliver(self, batch: _Batch) -> None:
        """Send a batch, again and again where that makes sense, or drop it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._send(batch)
            except asyncio.CancelledError:
                self._drop(batch.spans, "unreachable")
                raise
            except _Refused as refusal:
                self._tell_outage(str(refusal))
                if refusal.again is None:
                    self._drop(batch.spans, "refused")
                    return
                wait = max(refusal.again, pause * random.uniform(0.5, 1.0))
                if self._stopping.is_set() or time.monotonic() + wait > batch.made + MAX_AGE:
                    self._drop(batch.spans, "unreachable")
                    if self._stopping.is_set():
                        self._give_up()
                    return
                await self._pause(wait)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._tell_recovery()
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the server stops meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _send(self, batch: _Batch) -> None:
        """POST a batch once.

        Raises:
            _Refused: the collector didn't take it.
        """
        deadline = asyncio.get_running_loop().time() + _TIMEOUT
        try:
            async with self._transport.post(self._path, batch.body, deadline) as response:
                body = await response.read_all(_MAX_ANSWER, deadline)
                status, retry_after = response.status, response.headers.get("retry-after", "")
        except BackendError as error:
            raise _Refused(error.reason or error.message, 0.0) from None
        if status in _RETRIED:
            asked = float(retry_after) if retry_after.isdecimal() else 0.0
            raise _Refused(f"HTTP {status}", min(asked, _MAX_RETRY_AFTER))
        if not 200 <= status < 300:
            raise _Refused(f"HTTP {status}", None)
        rejected, why = self._otlp.partial_success(body)
        rejected = min(rejected, batch.spans)
        self._exported.add(count=batch.spans - rejected)
        if rejected:
            self._dropped.add("refused", count=rejected)
        if rejected or why:
            told = fields(endpoint=self.url, rejected=rejected, reason=why[:500] or None)
            logger.warning("the collector refused some spans", extra=told)

    def _tell_outage(self, reason: str) -> None:
        if not self._outage:
            self._outage, self._lost = True, 0
            told = fields(endpoint=self.url, reason=reason)
            logger.warning("spans can't be exported", extra=told)

    def _tell_recovery(self) -> None:
        if self._outage:
            self._outage = False
            told = fields(endpoint=self.url, dropped=self._lost)
            logger.info("spans are exported again", extra=told)

    def _give_up(self) -> None:
        """Drop what is left."""
        while self._batches:
            self._drop(self._take().spans, "unreachable")


def _is_settling(record: RequestRecord) -> bool:
    """True if steps of a trace are awaited that may end after its request."""
    trace, ended = record.trace, record.ended
    if trace is None or not trace.unfinished or ended is None:
        return False
    return time.monotonic() - ended < _MAX_SETTLING
