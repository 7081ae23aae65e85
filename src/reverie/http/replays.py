"""Requests with an ``Idempotency-Key``: generated once, given to whoever asks, as often as asked.

Such a generation runs in a task of its own and writes into a ``Transcript``, which any number of
clients read, each from the event and at the pace that it likes. One that has no reader any more
goes on for a grace time, in which a client may come back for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from reverie.errors import (
    BackendError,
    ClientGone,
    IdempotencyKeyReused,
    InvalidRequest,
    RateStatus,
    RequestInProgress,
    ReverieError,
    StreamNotResumable,
)
from reverie.gateway.admission import Admission
from reverie.gateway.house import House
from reverie.gateway.ledger import Reservation
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import Record
from reverie.http.exchange import Headers, Interruption, Scope, header
from reverie.http.failures import understood
from reverie.http.frames import EVENT_END, Frame, Job, frames, rate_headers
from reverie.http.in_flight import InFlight
from reverie.settings import ServerSettings
from reverie.store.answers import Claim, KeptAnswer

MAX_TRANSCRIPT = 16 * 1024 * 1024
"""Bytes of an answer that is held for its readers."""
_ASK_AGAIN = 0.25
"""Seconds between two looks whether another gateway has finished the same request."""


def claim_of(scope: Scope, dialect: str, body: bytes) -> Claim | None:
    """Read ``Idempotency-Key`` and ``Last-Event-ID``.

    Raises:
        InvalidRequest: one of them is malformed.
    """
    key = header(scope, b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= 255 or not all(0x21 <= byte <= 0x7E for byte in key):
        raise InvalidRequest(
            "Idempotency-Key is 1 to 255 visible ASCII characters.", param="Idempotency-Key"
        )
    after = header(scope, b"last-event-id") or b"0"
    if not after.isdigit() or len(after) > 9:
        raise InvalidRequest(
            "Last-Event-ID is the number of the last event that arrived.", param="Last-Event-ID"
        )
    fingerprint = hashlib.sha256(dialect.encode() + b"\0" + body).digest()
    return Claim(key.decode(), fingerprint, int(after))


class Transcript:
    """What a generation has said so far."""

    def __init__(self) -> None:
        self.rate: RateStatus | None = None
        self.kept = False
        """Whether it was said to an earlier request."""
        self.readers = 0
        self.on_readers: Callable[[], None] = lambda: None
        self._events: list[bytes] = []
        self._size = 0
        self._complete = False
        self._error: ReverieError | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._complete or self._error is not None

    def append(self, frame: Frame) -> None:
        """Add what was said next.

        Raises:
            BackendError: it is more than anybody could want to read.
        """
        self._size += len(frame.data)
        if self._size > MAX_TRANSCRIPT:
            raise BackendError("The answer is too large.", reason="transcript full")
        parts = frame.data.split(EVENT_END)
        self._events += [part + EVENT_END for part in parts[:-1]]
        if parts[-1]:
            self._events.append(parts[-1])  # one JSON body
        self._complete = frame.last
        self._wake()

    def fail(self, error: ReverieError) -> None:
        """End it where it is."""
        if not self.ended:
            self._error = error
            self._wake()

    async def read(self, after: int) -> AsyncGenerator[Frame, None]:
        """What was said after that event, and what is said from now on.

        Raises:
            StreamNotResumable: there is no such event.
            ReverieError: as the generation ended.
        """
        self.readers += 1
        self.on_readers()
        try:
            while True:
                if after > len(self._events) and (self.ended or self._events):
                    raise StreamNotResumable
                if after < len(self._events):
                    data = b"".join(self._events[after:])
                    after = len(self._events)
                    yield Frame(data, last=self._complete)
                elif self._complete:
                    return
                elif self._error is not None:
                    raise self._error
                else:
                    await self._changed.wait()
        finally:
            self.readers -= 1
            self.on_readers()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Running:
    """A generation that outlives its clients."""

    def __init__(self, fingerprint: bytes, grace: float) -> None:
        self.fingerprint = fingerprint
        self.transcript = Transcript()
        self.transcript.on_readers = self._readers_changed
        self.interruption: Interruption | None = None
        self.task: asyncio.Task[None] | None = None
        self._grace = grace
        self._leaving: asyncio.TimerHandle | None = None

    def _readers_changed(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self.transcript.readers and not self.transcript.ended:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(self._grace, self._give_up)

    def _give_up(self) -> None:
        if self.interruption is not None:
            self.interruption.end(ClientGone("The client did not come back for its answer."))


class Replays:
    """The generations of this gateway that carry an ``Idempotency-Key``."""

    def __init__(
        self,
        *,
        admission: Admission,
        in_flight: InFlight,
        house: House,
        metrics: Metrics,
    ) -> None:
        self._admission = admission
        self._in_flight = in_flight
        self._house = house
        self._metrics = metrics
        self._running: dict[tuple[str, str], _Running] = {}

    @property
    def _settings(self) -> ServerSettings:
        return self._house.settings.server

    async def read(self, job: Job, headers: Headers) -> AsyncGenerator[Frame, None]:
        """The frames of the same request that runs here or is answered, or else of a new one.

        Before the first frame, ``headers`` gets what is known only then.

        Raises:
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept, StreamNotResumable
            ReverieError: as the generation ended.
        """
        assert job.claim is not None
        place = (job.caller.key_id, job.claim.key)
        running = self._running.get(place)
        begun = running is None
        if running is None:
            running = self._begin(place, job.claim, job)
        elif running.fingerprint != job.claim.fingerprint:
            raise IdempotencyKeyReused
        transcript = running.transcript
        async with aclosing(transcript.read(job.claim.after)) as made:
            async for frame in made:
                if job.record.replayed is None:
                    job.record.replayed = transcript.kept or not begun
                    if job.record.replayed:
                        headers.append((b"idempotent-replayed", b"true"))
                    else:
                        headers += rate_headers(transcript.rate)
                yield frame
        job.record.outcome = "ok"

    def _begin(self, place: tuple[str, str], claim: Claim, job: Job) -> _Running:
        running = self._running[place] = _Running(claim.fingerprint, self._settings.resume_grace)
        record = Record(job.record.id, job.record.route, "generation")
        record.key, record.model, record.stream = (
            job.record.key,
            job.record.model,
            job.record.stream,
        )
        service = job.model.service
        service.hold()  # for the generation, which may outlive this request
        running.task = asyncio.create_task(self._run(place, running, job._replace(record=record)))
        running.task.add_done_callback(lambda _: service.release())
        return running

    async def _run(self, place: tuple[str, str], running: _Running, job: Job) -> None:
        record, transcript = job.record, running.transcript
        try:
            async with self._in_flight.running(self._settings.request_timeout) as interruption:
                running.interruption = interruption
                await self._generate(job, transcript)
        except Exception as failure:
            error = understood(failure, record.id)
            record.failed(error)
            transcript.fail(error)
        finally:
            transcript.fail(ClientGone("The server stopped."))
            del self._running[place]
            record.close()
            self._metrics.observe_generation(record)

    async def _generate(self, job: Job, transcript: Transcript) -> None:
        granted = await self._claim(job)
        if isinstance(granted, KeptAnswer):
            job.record.outcome, job.record.replayed = "ok", True
            transcript.kept = True
            transcript.append(Frame(granted.body, last=True))
            return
        transcript.rate = granted.rate
        async with aclosing(frames(job, granted, self._settings.max_kept_answer)) as made:
            async for frame in made:
                transcript.append(frame)

    async def _claim(self, job: Job) -> Reservation | KeptAnswer:
        """Claim the request; wait for a gateway that was first, and for its answer."""
        deadline = asyncio.get_running_loop().time() + self._settings.queue_timeout
        while True:
            try:
                return await self._admission.admit(
                    job.caller, job.model, job.request, job.record, job.claim
                )
            except RequestInProgress:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_ASK_AGAIN)
