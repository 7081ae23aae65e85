"""Requests with an ``Idempotency-Key``: generated once, given to whoever asks, as often as asked.

Such a generation runs in a task of its own and writes into a ``Transcript``, which any number of
clients read, each from the event and at the pace that it likes. One that has no reader any more
goes on for a grace time, in which a client may come back for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeAlias
from weakref import WeakValueDictionary

from reverie.errors import (
    AccountsUnavailable,
    ClientGone,
    IdempotencyKeyReused,
    InvalidRequest,
    Overloaded,
    RequestInProgress,
    StreamNotResumable,
)
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.ledger import Reservation
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.connection.exchange import CancelScope, Headers, Scope, header
from reverie.http.connection.failures import as_reverie_error
from reverie.http.connection.in_flight import InFlight
from reverie.http.frames import Frame, Job, frames, rate_headers
from reverie.http.idempotency.transcript import KeptAnswer, Transcript
from reverie.settings import ServerSettings
from reverie.store import answers
from reverie.store.answers import Claim, StoredAnswer
from reverie.store.database.engine import Store, StoreFailure
from reverie.store.reserve import ANSWERS_KEPT_MS, clock

REPLAYED = (b"idempotent-replayed", b"true")
MAX_HELD = 256 * 1024 * 1024
"""Bytes of stored answers that are held for those who read them; past it, no other is."""
_LOADS = 4
"""Stored answers that are read out of the store at once."""
_ID_DIGITS = 16
_ASK_AGAIN = 0.25
"""Seconds between two looks whether another gateway has finished the same request."""

_Place: TypeAlias = tuple[str, str]
"""(API key's id, idempotency key)"""


def claim_of(scope: Scope, dialect: str, body: bytes, *, stream: bool) -> Claim | None:
    """Read ``Idempotency-Key`` and ``Last-Event-ID``, which means nothing without a stream.

    Raises:
        InvalidRequest: one of them is malformed, or there twice.
    """
    key = _only(scope, "Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= 255 or not all(0x21 <= byte <= 0x7E for byte in key):
        raise InvalidRequest(
            "Idempotency-Key is 1 to 255 visible ASCII characters.", param="Idempotency-Key"
        )
    after = _only(scope, "Last-Event-ID") or b"0"
    if not after.isdigit() or len(after) > _ID_DIGITS:
        raise InvalidRequest(
            "Last-Event-ID is the number of the last event that arrived.", param="Last-Event-ID"
        )
    fingerprint = hashlib.sha256(dialect.encode() + b"\0" + body).digest()
    return Claim(key.decode(), fingerprint, int(after) if stream else 0)


def _only(scope: Scope, name: str) -> bytes | None:
    """The header of that name, of which there may be one.

    Raises:
        InvalidRequest: there are more.
    """
    wanted = name.lower().encode()
    given = [bytes(value) for key, value in scope["headers"] if key == wanted]
    if len(given) > 1:
        raise InvalidRequest(f"{name} is there {len(given)} times.", param=name)
    return given[0] if given else None


class _Running:
    """A generation that outlives its clients."""

    def __init__(self, claim: Claim, model: ServedModel, grace: float) -> None:
        self.claim = claim
        self.model = model
        """Which it holds until its end."""
        self.given_up = False
        self.transcript = Transcript()
        self.transcript.on_readers = self._readers_changed
        self.cancel_scope: CancelScope | None = None
        self.task: asyncio.Task[None] | None = None
        self._grace = grace
        self._leaving: asyncio.TimerHandle | None = None

    def join(self, claim: Claim) -> Transcript:
        """Let the same request have part in it."""
        if not claim.after:
            self.claim = claim  # there is one now who may have it generated
        return self.transcript

    def end(self) -> None:
        """Let go of the transcript, so that it goes with its last reader."""
        self.transcript.on_readers = lambda: None
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _readers_changed(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self.transcript.readers and not self.transcript.ended:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(self._grace, self._give_up)

    def _give_up(self) -> None:
        if self.cancel_scope is not None:
            self.given_up = True
            self.cancel_scope.end(ClientGone("The client did not come back for its answer."))


class Replays:
    """The generations of this gateway that carry an ``Idempotency-Key``."""

    def __init__(
        self,
        *,
        admission: Admission,
        in_flight: InFlight,
        registry: ModelRegistry,
        metrics: Metrics,
        store: Store | None,
    ) -> None:
        self._store = store
        self._admission = admission
        self._in_flight = in_flight
        self._registry = registry
        self._metrics = metrics
        self._running: dict[_Place, _Running] = {}
        self._answers: WeakValueDictionary[_Place, KeptAnswer] = WeakValueDictionary()
        """Stored answers, each for as long as somebody reads it."""
        self._loading = asyncio.Semaphore(_LOADS)

    @property
    def _settings(self) -> ServerSettings:
        return self._registry.settings.server

    def runs(self, caller: Caller, scope: Scope) -> bool:
        """Whether a request of this ``Idempotency-Key`` runs here, so that it may be joined."""
        key = header(scope, b"idempotency-key")
        return key is not None and (caller.key_id, key.decode("latin-1")) in self._running

    def model_of(self, caller: Caller, claim: Claim) -> ServedModel | None:
        """The model of the same request, if that runs here; it may be served no more."""
        running = self._running.get((caller.key_id, claim.key))
        return None if running is None or running.given_up else running.model

    async def kept(self, caller: Caller, claim: Claim) -> KeptAnswer | None:
        """The answer that is kept, whether its model is served or not.

        Raises:
            Overloaded, AccountsUnavailable: it can't be had now.
        """
        if self._store is None:
            return None
        place = (caller.key_id, claim.key)
        try:
            found = await asyncio.to_thread(_find, self._store, place, claim)
        except StoreFailure:
            return None
        return None if found is None else await self._load(place, claim, found)

    async def read(self, job: Job, headers: Headers) -> AsyncGenerator[Frame, None]:
        """The frames of the same request that runs here or is answered, or else of a new one.

        Before the first frame, ``headers`` gets what is known only then.

        Raises:
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept, StreamNotResumable, Overloaded
            ReverieError: as the generation ended.
        """
        assert job.claim is not None
        place = (job.caller.key_id, job.claim.key)
        while (running := self._running.get(place)) is not None and running.given_up:
            assert running.task is not None
            await asyncio.wait({running.task})  # what it was claimed for is free by then
        answer = self._answers.get(place) if running is None else None
        known = answer if running is None else running.claim
        if known is not None and known.fingerprint != job.claim.fingerprint:
            raise IdempotencyKeyReused
        if answer is not None:
            transcript = Transcript(answer)
        elif running is not None:
            transcript = running.join(job.claim)
        else:
            transcript = self._begin(place, job.claim, job).transcript
        async with aclosing(transcript.read(job.claim.after)) as made:
            async for frame in made:
                if job.record.replayed is None:
                    job.record.replayed = transcript.answer is not None or known is not None
                    if job.record.replayed:
                        headers.append(REPLAYED)
                    else:
                        headers += rate_headers(transcript.rate)
                yield frame
        job.record.outcome = "ok"

    def _begin(self, place: _Place, claim: Claim, job: Job) -> _Running:
        running = self._running[place] = _Running(claim, job.model, self._settings.resume_grace)
        record = RequestRecord(job.record.id, job.record.route, "generation")
        record.key, record.model, record.stream = (
            job.record.key,
            job.record.model,
            job.record.stream,
        )
        deployment = job.model.deployment
        deployment.hold()  # for the generation, which may outlive this request
        running.task = asyncio.create_task(self._run(place, running, job._replace(record=record)))
        running.task.add_done_callback(lambda _: deployment.release())
        return running

    async def _run(self, place: _Place, running: _Running, job: Job) -> None:
        record, transcript = job.record, running.transcript
        try:
            async with self._in_flight.running(self._settings.request_timeout) as cancel_scope:
                running.cancel_scope = cancel_scope
                await self._generate(job, running)
        except Exception as failure:
            error = as_reverie_error(failure, record.id)
            record.failed(error)
            transcript.fail(error)
        finally:
            transcript.fail(ClientGone("The server stopped."))
            running.end()
            del self._running[place]
            if transcript.begun:  # else there was none, and the requests' own lines say why
                record.close()
                self._metrics.observe_generation(record)

    async def _generate(self, job: Job, running: _Running) -> None:
        transcript = running.transcript
        granted = await self._claim(job, running)
        if isinstance(granted, KeptAnswer):
            transcript.give_again(granted)
            return
        transcript.begin(granted.rate, granted.base)
        async with aclosing(frames(job, granted, self._settings.max_kept_answer)) as made:
            async for frame in made:
                await transcript.append(frame)

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
                if isinstance(granted, StoredAnswer):
                    place = (job.caller.key_id, claim.key)
                    if (answer := await self._load(place, claim, granted)) is not None:
                        return answer
                elif not running.claim.after:
                    return granted
                else:
                    raise StreamNotResumable  # without a store nobody has said so

    async def _load(self, place: _Place, claim: Claim, kept: StoredAnswer) -> KeptAnswer | None:
        """Read an answer out of the store, unless it was read and is still held; None: it is gone.

        Raises:
            Overloaded: too much is held for others.
            AccountsUnavailable: the store can't be read now.
        """
        assert self._store is not None
        async with self._loading:
            answer = self._answers.get(place)
            if answer is not None and answer.row == kept.row:
                return answer
            if sum(len(held.body) for held in self._answers.values()) > MAX_HELD:
                raise Overloaded(
                    "Too many stored answers are being read. Try again shortly.", retry_after=1
                )
            try:
                body = await asyncio.to_thread(_body, self._store, kept.row)
            except StoreFailure:
                raise AccountsUnavailable from None
            if body is None:
                return None
            answer = self._answers[place] = KeptAnswer(kept.row, claim.fingerprint, body)
            return answer


def _find(store: Store, place: _Place, claim: Claim) -> StoredAnswer | None:
    with store.read() as connection:
        found = answers.find(
            connection, {place: claim}, int(clock(connection) * 1000) - ANSWERS_KEPT_MS
        )
    kept = found.get(place)
    return kept if isinstance(kept, StoredAnswer) else None


def _body(store: Store, row: int) -> bytes | None:
    with store.read() as connection:
        return answers.body(connection, row)
