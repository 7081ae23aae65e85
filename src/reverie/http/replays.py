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
from reverie.gateway.auth import Caller
from reverie.gateway.house import House
from reverie.gateway.ledger import Reservation
from reverie.gateway.metrics import Metrics
from reverie.gateway.models import ServedModel
from reverie.gateway.record import Record
from reverie.http.exchange import Headers, Interruption, Scope, header
from reverie.http.failures import understood
from reverie.http.frames import EVENT_END, Frame, Job, frames, rate_headers
from reverie.http.in_flight import InFlight
from reverie.settings import ServerSettings
from reverie.store import answers
from reverie.store.answers import Claim, KeptAnswer
from reverie.store.engine import Store, StoreFailure
from reverie.store.reserve import ANSWERS_KEPT_MS, clock

REPLAYED = (b"idempotent-replayed", b"true")
MAX_TRANSCRIPT = 16 * 1024 * 1024
"""Bytes of an answer that is held for its readers."""
_MOST_AT_ONCE = 64 * 1024
"""Bytes of whole events that a reader is given in one write."""
_ASK_AGAIN = 0.25
"""Seconds between two looks whether another gateway has finished the same request."""


def claim_of(scope: Scope, dialect: str, body: bytes, *, stream: bool) -> Claim | None:
    """Read ``Idempotency-Key`` and ``Last-Event-ID``, which means nothing without a stream.

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
    return Claim(key.decode(), fingerprint, int(after) if stream else 0)


class Transcript:
    """What a generation has said so far."""

    def __init__(self) -> None:
        self.rate: RateStatus | None = None
        self.kept = False
        """Whether it was said to an earlier request."""
        self.begun = False
        """Whether it is of a generation here."""
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

    def begin(self, rate: RateStatus | None) -> None:
        """Note that it is generated here, and now."""
        self.begun, self.rate = True, rate
        self._wake()

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
        """What was said after that event, and what is said from now on: one frame at least.

        Raises:
            StreamNotResumable: there is no such event.
            ReverieError: as the generation ended.
        """
        of_another = after > 0 and not self.begun
        said_all = False
        self.readers += 1
        self.on_readers()
        try:
            while not said_all:
                if self._error is not None and not self.begun:
                    raise self._error
                if after > len(self._events) and (self.ended or self._events):
                    raise StreamNotResumable
                if of_another and self.begun:  # which was not gone on with, but begun anew
                    raise StreamNotResumable
                if after < len(self._events) or self._complete:
                    data, after = self._some(after)
                    said_all = self._complete and after == len(self._events)
                    yield Frame(data, last=said_all)
                elif self._error is not None:
                    raise self._error
                else:
                    await self._changed.wait()
        finally:
            self.readers -= 1
            self.on_readers()

    def _some(self, after: int) -> tuple[bytes, int]:
        """Events after that one, as many as are written at once; the number of the last of them."""
        size, end = 0, after
        while end < len(self._events) and size < _MOST_AT_ONCE:
            size += len(self._events[end])
            end += 1
        return b"".join(self._events[after:end]), end

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Running:
    """A generation that outlives its clients."""

    def __init__(self, claim: Claim, model: ServedModel, grace: float) -> None:
        self.claim = claim
        self.model = model
        """Which it holds until its end."""
        self.given_up = False
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
            self.given_up = True
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
        store: Store | None,
    ) -> None:
        self._store = store
        self._admission = admission
        self._in_flight = in_flight
        self._house = house
        self._metrics = metrics
        self._running: dict[tuple[str, str], _Running] = {}

    @property
    def _settings(self) -> ServerSettings:
        return self._house.settings.server

    def runs(self, caller: Caller, scope: Scope) -> bool:
        """Whether a request of this ``Idempotency-Key`` runs here, so that it may be joined."""
        key = header(scope, b"idempotency-key")
        return key is not None and (caller.key_id, key.decode("latin-1")) in self._running

    def model_of(self, caller: Caller, claim: Claim) -> ServedModel | None:
        """The model of the same request, if that runs here; it may be served no more."""
        running = self._running.get((caller.key_id, claim.key))
        return None if running is None or running.given_up else running.model

    async def kept(self, caller: Caller, claim: Claim) -> bytes | None:
        """What a client lacks of the answer that is kept, whether its model is served or not.

        Raises:
            StreamNotResumable: it has no such event.
        """
        if self._store is None:
            return None
        try:
            found = await asyncio.to_thread(_find, self._store, caller.key_id, claim)
        except StoreFailure:
            return None
        if found is None:
            return None
        transcript = Transcript()
        transcript.append(Frame(found.body, last=True))
        return b"".join([frame.data async for frame in transcript.read(claim.after)])

    async def read(self, job: Job, headers: Headers) -> AsyncGenerator[Frame, None]:
        """The frames of the same request that runs here or is answered, or else of a new one.

        Before the first frame, ``headers`` gets what is known only then.

        Raises:
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept, StreamNotResumable
            ReverieError: as the generation ended.
        """
        assert job.claim is not None
        place = (job.caller.key_id, job.claim.key)
        while (running := self._running.get(place)) is not None and running.given_up:
            assert running.task is not None
            await asyncio.wait({running.task})  # what it was claimed for is free by then
        begun = running is None
        if running is None:
            running = self._begin(place, job.claim, job)
        elif running.claim.fingerprint != job.claim.fingerprint:
            raise IdempotencyKeyReused
        elif not job.claim.after:
            running.claim = job.claim  # there is one now who may have it generated
        transcript = running.transcript
        async with aclosing(transcript.read(job.claim.after)) as made:
            async for frame in made:
                if job.record.replayed is None:
                    job.record.replayed = transcript.kept or not begun
                    if job.record.replayed:
                        headers.append(REPLAYED)
                    else:
                        headers += rate_headers(transcript.rate)
                yield frame
        job.record.outcome = "ok"

    def _begin(self, place: tuple[str, str], claim: Claim, job: Job) -> _Running:
        running = self._running[place] = _Running(claim, job.model, self._settings.resume_grace)
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
                await self._generate(job, running)
        except Exception as failure:
            error = understood(failure, record.id)
            record.failed(error)
            transcript.fail(error)
        finally:
            transcript.fail(ClientGone("The server stopped."))
            del self._running[place]
            record.close()
            self._metrics.observe_generation(record)

    async def _generate(self, job: Job, running: _Running) -> None:
        transcript = running.transcript
        granted = await self._claim(job, running)
        if isinstance(granted, KeptAnswer):
            job.record.outcome, job.record.replayed = "ok", True
            transcript.kept = True
            transcript.append(Frame(granted.body, last=True))
            return
        transcript.begin(granted.rate)
        async with aclosing(frames(job, granted, self._settings.max_kept_answer)) as made:
            async for frame in made:
                transcript.append(frame)

    async def _claim(self, job: Job, running: _Running) -> Reservation | KeptAnswer:
        """Claim the request; wait for a gateway that was first, and for its answer.

        Raises:
            StreamNotResumable: none of its readers wants it from its beginning.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.queue_timeout
        while True:
            claim = running.claim
            try:
                granted = await self._admission.admit(
                    job.caller, job.model, job.request, job.record, claim
                )
            except RequestInProgress:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_ASK_AGAIN)
            except StreamNotResumable:
                if running.claim.after:
                    raise
            else:
                if isinstance(granted, KeptAnswer) or not running.claim.after:
                    return granted
                raise StreamNotResumable  # without a store nobody has said so


def _find(store: Store, key_id: str, claim: Claim) -> KeptAnswer | None:
    place = (key_id, claim.key)
    with store.read() as connection:
        found = answers.find(
            connection, {place: claim}, int(clock(connection) * 1000) - ANSWERS_KEPT_MS
        )
    kept = found.get(place)
    return kept if isinstance(kept, KeptAnswer) else None
