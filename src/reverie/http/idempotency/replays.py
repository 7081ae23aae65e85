"""Requests with an ``Idempotency-Key``: generated once, sent to whoever asks, as often as asked.

Such a generation runs in a task of its own and writes into a ``Transcript``, which any number of
clients read, each from its own event and at its own pace. When the last reader has gone, the
generation goes on for a grace time, in which a client may come back for the rest.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import msgspec

from reverie.errors import (
    AccountsUnavailable,
    AnswerCancelled,
    ClientGone,
    IdempotencyKeyReused,
    Overloaded,
    RequestInProgress,
    ReverieError,
    ServerStopped,
    StreamNotResumable,
)
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.kept_answers import Claim, KeptAnswers, StoredAnswer
from reverie.gateway.accounts.reservation import Reservation
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.siblings import ALONE, Siblings
from reverie.http.choices import generate
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.exchange import Headers, as_reverie_error
from reverie.http.connection.in_flight import InFlight
from reverie.http.frames import Frame, Job, Source, Write
from reverie.http.idempotency.transcript import KeptAnswer, Transcript
from reverie.http.replies import rate_headers
from reverie.pending import done
from reverie.settings import ServerSettings

REPLAYED = (b"idempotent-replayed", b"true")
MAX_HELD = 256 * 1024 * 1024
"""Bytes of stored answers that are held in memory for their readers; past it, no more are loaded.
"""
_MAX_LOADS = 4
"""Stored answers that are read from the store at once."""
_POLL_INTERVAL = 0.25
"""Seconds until the first look whether another gateway has finished the same request. The looks
become rarer, and only read: a reservation would be a transaction that writes."""
_LONGEST_INTERVAL = 2.0

_Place: TypeAlias = tuple[str, str]
"""(API key's id, idempotency key)"""


class Generation:
    """One generation that outlives its clients."""

    def __init__(self, claim: Claim, job: Job, grace: float) -> None:
        self.claim = claim
        self.job = job
        self.abandoned = False
        self.transcript = Transcript()
        self.transcript.on_readers = self._readers_changed
        self.cancel_scope: CancelScope | None = None
        self.task: asyncio.Task[None] | None = None
        self._grace = grace
        self._abandoning: asyncio.TimerHandle | None = None

    def join(self, claim: Claim) -> None:
        """Let another request with the same claim read the transcript."""
        if not claim.after:
            self.claim = claim  # this client wants the whole answer: it may be generated for it

    async def cancel(self) -> None:
        """End it for its client, and wait until it is settled."""
        self.abandoned = True
        if self.cancel_scope is not None:
            self.cancel_scope.end(AnswerCancelled())
        if self.task is not None:
            await asyncio.wait({self.task})

    def end(self) -> None:
        """Drop the callback, so that the transcript is freed with its last reader."""
        self.transcript.on_readers = lambda: None
        self._stop_timer()

    def _readers_changed(self) -> None:
        self._stop_timer()
        if not self.transcript.readers and not self.transcript.ended:
            loop = asyncio.get_running_loop()
            self._abandoning = loop.call_later(self._grace, self._abandon)

    def _stop_timer(self) -> None:
        if self._abandoning is not None:
            self._abandoning.cancel()
            self._abandoning = None

    def _abandon(self) -> None:
        if self.cancel_scope is not None:
            self.abandoned = True
            self.cancel_scope.end(ClientGone("The client did not come back for its answer."))


class Found(NamedTuple):
    """An answer that is kept."""

    transcript: Transcript
    running: Generation | None
    """What writes it; None if it is complete."""

    @property
    def stored(self) -> bytes:
        """A complete answer's bytes; none of one that is still written."""
        return b"" if self.transcript.answer is None else self.transcript.answer.body

    def read(self, after: int, record: RequestRecord, headers: Headers) -> Source:
        """The events after this number, as ``Replays.open`` gives them."""
        run = partial(_read, self.transcript, after, record, headers, True)
        return Source(run, None if self.running is None else self.running.job.encoder)


class Replays:
    """The generations of this gateway that carry an ``Idempotency-Key``, and stored answers."""

    def __init__(
        self,
        *,
        admission: Admission,
        in_flight: InFlight,
        registry: ModelRegistry,
        metrics: Metrics,
        kept_answers: KeptAnswers,
        siblings: Siblings = ALONE,
    ) -> None:
        self._siblings = siblings
        self._kept_answers = kept_answers
        self._admission = admission
        self._in_flight = in_flight
        self._registry = registry
        self._metrics = metrics
        self._running: dict[_Place, Generation] = {}
        self._loaded: WeakValueDictionary[_Place, KeptAnswer] = WeakValueDictionary()
        """Stored answers, each for as long as somebody reads it."""
        self._loads = asyncio.Semaphore(_MAX_LOADS)

    @property
    def _settings(self) -> ServerSettings:
        return self._registry.settings.server

    async def open(
        self,
        caller: Caller,
        claim: Claim,
        record: RequestRecord,
        headers: Headers,
        prepare: Callable[[], Job],
    ) -> Source:
        """The answer to a claim: of the same request if it runs here or is stored, else a new one.

        Before the first frame, ``headers`` gets those that are known only then.

        Args:
            prepare: makes a job of the request, or raises what is wrong with its model. A request
                that runs here continues on the model it has; one that was answered is answered
                again even if its model is no longer served.

        Raises:
            IdempotencyKeyReused, AccountsUnavailable, Overloaded
            ReverieError: as ``prepare``. The source raises it as the generation ends.
        """
        place = (caller.key_id, claim.key)
        while (running := self._running.get(place)) is not None and running.abandoned:
            assert running.task is not None
            await asyncio.wait({running.task})  # its place is free by then
        loaded = self._loaded.get(place) if running is None else None
        known = loaded if running is None else running.claim
        if known is not None and known.fingerprint != claim.fingerprint:
            raise IdempotencyKeyReused
        if running is None:
            try:
                job = prepare()
            except ReverieError:
                with suppress(AccountsUnavailable):
                    loaded = loaded or await self._load_stored(place, claim)
                if loaded is None:
                    raise
            else:
                running = None if loaded is not None else self._begin(place, claim, job)
        if running is None:
            transcript = Transcript(loaded)
            return Source(partial(_read, transcript, claim.after, record, headers, True), None)
        running.join(claim)
        record.model = running.job.model.name
        record.asked(running.job.request, len(running.job.requests))
        replayed = known is not None
        run = partial(_read, running.transcript, claim.after, record, headers, replayed)
        return Source(run, running.job.encoder)

    async def find(self, caller: Caller, key: str, proof: bytes) -> Found | None:
        """What is kept under an idempotency key, whatever was asked.

        Args:
            proof: how the fingerprint of what was asked begins. A key can be guessed, and callers
                may share an API key, or need none.

        Raises:
            AccountsUnavailable, Overloaded
        """
        place = (caller.key_id, key)
        running = self._running.get(place)
        if running is not None and not running.abandoned:
            fingerprint = running.claim.fingerprint or b""
            return Found(running.transcript, running) if fingerprint.startswith(proof) else None
        loaded = self._loaded.get(place) or await self._load_stored(place, Claim(key, None))
        if loaded is None or not loaded.fingerprint.startswith(proof):
            return None
        return Found(Transcript(loaded), None)

    async def cancel(self, key_id: str, key: str, proof: bytes) -> bool:
        """End the answer that runs here under an idempotency key. False: none does."""
        running = self._running.get((key_id, key))
        if running is None or not (running.claim.fingerprint or b"").startswith(proof):
            return False
        await running.cancel()
        return True

    async def cancel_elsewhere(self, caller: Caller, key: str, proof: bytes) -> bool:
        """As ``cancel``, in the other processes of this gateway."""
        asked = msgspec.json.encode((caller.key_id, key, proof))
        return b"true" in await self._siblings.ask("cancel_answer", asked)

    def _begin(self, place: _Place, claim: Claim, job: Job) -> Generation:
        """Start the generation in a task of its own, with a record of its own."""
        own = job.record.another("generation")
        own.trace = None if own.trace is None else own.trace.generation()
        own.key, own.model, own.stream = job.record.key, job.model.name, job.record.stream
        job = job._replace(record=own)
        running = self._running[place] = Generation(claim, job, self._settings.resume_grace)
        job.model.deployment.hold()  # the generation may outlive the request
        running.task = asyncio.create_task(self._run(place, running))
        running.task.add_done_callback(lambda _: job.model.deployment.release())
        return running

    async def _run(self, place: _Place, running: Generation) -> None:
        record, transcript = running.job.record, running.transcript
        self._metrics.began(record)
        try:
            limit = self._settings.request_timeout
            async with self._in_flight.running(limit, record=record) as cancel_scope:
                running.cancel_scope = cancel_scope
                if running.abandoned:  # it was cancelled before it began
                    cancel_scope.end(AnswerCancelled())
                await self._generate(running)
        except Exception as failure:
            error = as_reverie_error(failure, record.id)
            record.failed(error)
            transcript.fail(error)
        except asyncio.CancelledError:
            record.failed(ServerStopped())
            raise
        finally:
            transcript.fail(ServerStopped())
            running.end()
            del self._running[place]
            if transcript.begun:  # else nothing was generated, and the requests' records say why
                record.close()
            self._metrics.observe_generation(record)

    async def _generate(self, running: Generation) -> None:
        granted = await self._claim(running)
        if isinstance(granted, KeptAnswer):
            running.transcript.give_again(granted)
            return
        running.transcript.begin(granted.rate, granted.base)
        max_kept = self._settings.max_kept_answer
        transcript = running.transcript
        await generate(
            running.job, granted, lambda data, last: transcript.append(Frame(data, last)), max_kept
        )

    async def _claim(self, running: Generation) -> Reservation | KeptAnswer:
        """Reserve the request, or get its answer; wait while another gateway generates it.

        Raises:
            RequestInProgress: the other gateway took longer than the queue's timeout.
            StreamNotResumable: no reader wants the answer from its beginning.
        """
        job = running.job
        deadline = asyncio.get_running_loop().time() + self._settings.queue_timeout
        while True:
            claim = running.claim
            try:
                granted, requests = await self._admission.admit(
                    job.caller, job.model, job.requests, job.record, claim
                )
            except RequestInProgress:
                if not await self._ends_before(deadline, job.caller.key_id, claim):
                    raise
            except StreamNotResumable:
                if running.claim.after:
                    raise
            else:
                if isinstance(granted, StoredAnswer):
                    place = (job.caller.key_id, claim.key)
                    if (answer := await self._load(place, granted)) is not None:
                        return answer
                elif not running.claim.after:
                    running.job = job.measured(requests)
                    return granted
                else:
                    raise StreamNotResumable  # without a store, nothing else has refused it

    async def _ends_before(self, deadline: float, key_id: str, claim: Claim) -> bool:
        """Wait until the gateway that generates an answer is done with it; False if it isn't."""
        interval = _POLL_INTERVAL
        loop = asyncio.get_running_loop()
        while loop.time() <= deadline:
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))
            if not await self._kept_answers.is_awaited(key_id, claim):
                return True
            interval = min(1.5 * interval, _LONGEST_INTERVAL)
        return False

    async def _load_stored(self, place: _Place, claim: Claim) -> KeptAnswer | None:
        stored = await self._kept_answers.find(place[0], claim)
        return None if stored is None else await self._load(place, stored)

    async def _load(self, place: _Place, stored: StoredAnswer) -> KeptAnswer | None:
        """Load a stored answer, unless it is in memory already; None if it was evicted.

        Raises:
            Overloaded: too many are in memory.
            AccountsUnavailable: the store can't be read now.
        """
        async with self._loads:
            answer = self._loaded.get(place)
            if answer is not None and answer.row == stored.row:
                return answer
            if sum(len(held.body) for held in self._loaded.values()) > MAX_HELD:
                raise Overloaded(
                    "Too many stored answers are being read. Try again shortly.", retry_after=1
                )
            body = await self._kept_answers.body(stored)
            if body is None:
                return None
            answer = self._loaded[place] = KeptAnswer(stored.row, stored.fingerprint, body)
            return answer


async def _read(
    transcript: Transcript,
    after: int,
    record: RequestRecord,
    headers: Headers,
    replayed: bool,
    write: Write,
) -> None:
    """Write the frames of a transcript after its event of that number.

    Args:
        replayed: the answer began for an earlier request. It turns out that it did, too, if the
            transcript is given a stored answer.

    Raises:
        RequestInProgress, AnswerNotKept, StreamNotResumable, ReverieError: as ``Transcript.read``.
    """
    async with aclosing(transcript.read(after)) as frames:
        async for frame in frames:
            if record.replayed is None:
                stored = transcript.answer is not None
                record.replayed = replayed or stored
                record.joined = replayed and not stored
                if record.trace is not None and record.replayed:
                    record.trace.note("replay")
                headers += [REPLAYED] if record.replayed else rate_headers(transcript.rate)
            await done(write(frame.data, frame.last))
    record.outcome = "ok"
