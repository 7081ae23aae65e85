"""The ledger as the gateway uses it: reserve before the work, settle before the last chunk.

Rule 1: no work begins without an open row, and no answer is completed before its row is closed: in
the store, or in the journal while the store is down.

Rule 2: nothing here waits longer for the store than ``store.timeout``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection

from reverie.background import Loop, Watch
from reverie.errors import AccountsUnavailable, ReverieError, StoreFailure
from reverie.gateway.accounts.deadlines import Deadlines
from reverie.gateway.accounts.journal import Journal, directory, left_behind
from reverie.gateway.accounts.kept_answers import AnswerBound
from reverie.gateway.accounts.reservation import StoredReservation
from reverie.gateway.metric_names import COMMITS, COST
from reverie.gateway.record import RequestRecord
from reverie.gateway.tallies import Histogram, Tally
from reverie.log import fields
from reverie.money import NANO
from reverie.store import gateways
from reverie.store.answers import StoredAnswer
from reverie.store.database.coordination import clock_ms
from reverie.store.database.engine import Store
from reverie.store.database.schema import ROWS_OF_A_GATEWAY
from reverie.store.database.writer import Operation, Work, Writer
from reverie.store.reservations import Granted, ReservationRequest, Result, reserve
from reverie.store.settlements import (
    BILLED,
    Amendment,
    Checkpoint,
    Settlement,
    amend,
    checkpoint,
    settle,
)
from reverie.times import now_ms

logger = logging.getLogger("reverie.ledger")

_REAP_EVERY = 5
"""Heartbeats between two looks for dead gateways."""
_UPKEEP = ("checkpoints", "neighbours", "journal", "answers")
"""What is done beside the heartbeat."""
_MAX_UPKEEP = 5.0
"""Seconds for one step of it."""
_MAX_WAITING = 10_000
"""Operations that may wait for the store before new requests are refused at once."""
_BATCH = 500
"""Journal entries that go to the store together."""


class Ledger:
    """The ledger of one store, for one running gateway."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._timeout = store.settings.timeout
        self._durable = store.settings.durability == "power"
        self._open: dict[int, StoredReservation] = {}
        self._unwritten: list[Settlement] = []
        """Settlements that neither the store nor the journal took."""
        self._answers = AnswerBound(store)
        self._settling: dict[Operation[Any], asyncio.Future[None]] = {}
        """Settlements on their way to the store, and who waits for each."""
        self._deadlines = Deadlines(self._on_late)
        self.commits = Histogram(COMMITS)
        self.cost = Tally(COST, scale=NANO)
        self._writer: Writer | None = None
        self._journal: Journal | None = None
        self._gateway = 0
        self._rows: Iterator[int] = itertools.count()
        self._heartbeat: Loop | None = None
        self._beat_at = 0.0  # on the monotonic clock, of the last heartbeat that was written
        self._seen_at = 0  # by the store's clock
        self._doubts_until = 0  # likewise: see ``DOUBT_AFTER_MS``
        self._steps = {name: Watch(f"ledger {name}") for name in _UPKEEP}
        # Journals that can't be read are for the operator; requests are served all the same.
        self._leftovers = Watch("ledger leftovers", harmless=True)
        self._steps["beat"] = Watch("ledger beat", overdue=lambda: self._presumed_dead)

    @property
    def healthy(self) -> bool:
        """True if the store took what it was last given, and other gateways know that this one
        lives."""
        writer = self._writer
        written = writer is not None and writer.started and not writer.failing
        return written and not self._presumed_dead

    @property
    def _presumed_dead(self) -> bool:
        """True if no heartbeat was written for so long that neighbours close this gateway's rows.

        Settlements correct rows that were closed so, but no limit counts them meanwhile.
        """
        unseen = time.monotonic() - self._beat_at
        return self._heartbeat is not None and unseen >= gateways.DEAD_AFTER_MS / 1000

    @property
    def journalled(self) -> int:
        """Settlements in the journal that wait for the store."""
        return 0 if self._journal is None else len(self._journal.pending)

    @property
    def gateway(self) -> int:
        """This gateway's number."""
        return self._gateway

    @property
    def busy(self) -> bool:
        """True if anything waits for the store."""
        return self._writer is not None and self._writer.waiting > 0

    @property
    def open(self) -> int:
        """This gateway's open rows."""
        return len(self._open)

    @property
    def lag(self) -> float:
        """Seconds for which the oldest settlement has waited for the store; 0: none waits."""
        waits = [
            time.monotonic() - (operation.deadline - self._timeout)
            for operation in itertools.islice(self._settling, 1)
        ]
        kept = [] if self._journal is None else self._journal.pending[:1]
        waits += [(now_ms() - one.ended_at) / 1000 for one in (*kept, *self._unwritten[:1])]
        return max([0.0, *waits])

    # Start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Register this gateway, and close what dead ones left.

        Raises:
            StoreFailure: the database can't be used.
        """
        folder = directory(self._store.settings.url)
        self._journal = Journal(folder, durable=self._durable)
        self._gateway = await asyncio.to_thread(self._register)
        first = self._gateway * ROWS_OF_A_GATEWAY + 1
        self._rows = itertools.count(first)
        self._writer = Writer(
            self._store,
            [
                _write_settlements,
                _write_amendments,
                _write_checkpoints,
                self._write_heartbeat,
                self._write_requests,
            ],
            self._close_orphan,
            self.commits.observe,
        )
        self._writer.start()
        self._beat_at = time.monotonic()
        self._heartbeat = Loop("ledger", self._run)

    async def stop(self) -> None:
        """Write what is left to write, and leave. Idempotent."""
        if self._heartbeat is None or self._writer is None:
            return
        heartbeat, self._heartbeat = self._heartbeat, None
        await heartbeat.stop()
        for reservation in list(self._open.values()):
            reservation.end()
        if self._settling:
            await asyncio.wait([operation.future for operation in self._settling])
        await self._answers.stop()
        with self._steps["journal"].step():
            await self._replay()
        await self._writer.stop()
        self._deadlines.stop()
        with self._steps["journal"].step():
            if self._journal is not None:
                self._journal.done(0)  # removes a file whose only entries could not be written
        for watch in (*self._steps.values(), self._leftovers):
            watch.end()
        with contextlib.suppress(StoreFailure):
            await asyncio.to_thread(self._leave)

    def _register(self) -> int:
        with self._store.write() as connection:
            self._seen_at = clock_ms(connection)
            number = gateways.register(connection, self._seen_at)
        try:
            self._take_over_journals()
        except OSError as failure:  # tried again while this gateway runs
            self._leftovers.failed(failure)
        with self._store.write() as connection:
            _reap(connection, number, clock_ms(connection), by_silence=True)
        return number

    def _leave(self) -> None:
        with self._store.write() as connection:
            gateways.leave(connection, self._gateway, clock_ms(connection))

    # Reserving ----------------------------------------------------------------------------

    async def reserve(
        self, request: ReservationRequest, record: RequestRecord
    ) -> StoredReservation | StoredAnswer:
        """Open a row within the limits; wait until it is durable.

        Returns:
            The row, or the answer that the same claim was given before.

        Raises:
            RateLimitExceeded, InsufficientQuota, ModelNotAllowed, InvalidApiKey: of the limits.
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept, StreamNotResumable: of the
                claim.
            AccountsUnavailable: the store doesn't answer in time, or neighbours take this gateway
                for dead and would close the row.
        """
        assert self._writer is not None
        if self._writer.waiting > _MAX_WAITING or self._presumed_dead:
            raise AccountsUnavailable
        operation = self._writer.submit(self._write_requests, request, self._timeout)
        self._deadlines.add(operation)
        try:
            result = await operation.future
        except BaseException as end:
            self._cancel(operation)
            if isinstance(end, StoreFailure):
                raise AccountsUnavailable from None
            raise
        if isinstance(result, ReverieError):
            raise result
        if isinstance(result, StoredAnswer):
            return result
        reservation = StoredReservation(request, result, record, self._close, self._amend)
        self._open[request.id] = reservation
        record.at_end = reservation.end
        record.on_prompt = reservation.on_prompt
        return reservation

    def next_row(self) -> int:
        """A number for a new row."""
        return next(self._rows)

    def _write_requests(
        self, connection: Connection, requests: Sequence[ReservationRequest], is_retry: bool
    ) -> Sequence[Result]:
        return reserve(connection, requests, self._gateway, is_retry=is_retry)

    def _cancel(self, operation: Operation[Any]) -> None:
        """Stop waiting for a row, which may have been opened in this turn of the event loop."""
        future = operation.future
        if future.cancel() or future.cancelled() or future.exception() is not None:
            return
        if isinstance(future.result(), Granted):
            self._close_orphan(operation)

    def _close_orphan(self, operation: Operation[Any]) -> None:
        """Close a row that was opened after its request had ended."""
        if isinstance(operation.subject, ReservationRequest):
            self._write(Settlement(id=operation.subject.id, outcome="failed", ended_at=now_ms()))

    # Settling -----------------------------------------------------------------------------

    def _close(self, settlement: Settlement) -> asyncio.Future[None]:
        """Settle a row of this gateway."""
        reservation = self._open.pop(settlement.id, None)
        if reservation is not None and settlement.outcome in BILLED:
            asked, price = reservation.request, reservation.request.price
            if cost := price.cost(
                settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens
            ):
                self.cost.add(asked.model, price.currency, count=cost)
        return self._write(settlement)

    def _write(self, settlement: Settlement) -> asyncio.Future[None]:
        """Make a settlement durable, in the store or in the journal, even if nobody waits for it.

        The future raises ``AccountsUnavailable`` if neither can be written; the row is then closed
        as failed as soon as one of them can be. Whoever waits may leave.
        """
        assert self._writer is not None
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._writer.failing:
            self._write_to_journal(settlement, durable)
            return durable
        operation = self._writer.submit(
            _write_settlements, settlement, self._timeout, self._on_stored
        )
        self._settling[operation] = durable
        self._deadlines.add(operation)
        return durable

    def _on_stored(self, operation: Operation[Any], failure: Exception | None) -> None:
        durable = self._settling.pop(operation)
        if isinstance(failure, StoreFailure):
            self._write_to_journal(operation.subject, durable)
        else:
            self._settled(operation.subject, durable, failure)

    def _on_late(self, operation: Operation[Any]) -> None:
        """Have nobody wait any longer for an operation that the store didn't take in time."""
        if isinstance(operation.subject, ReservationRequest):
            operation.future.set_exception(StoreFailure("it took too long"))
            return
        durable = self._settling.pop(operation)
        if self._write_to_journal(operation.subject, durable):
            operation.future.set_result(None)
        else:
            operation.future.cancel()  # its client will be told that it failed

    def _write_to_journal(self, settlement: Settlement, durable: asyncio.Future[None]) -> bool:
        """Keep a settlement that the store didn't take in time; False if that can't be done."""
        assert self._journal is not None
        try:
            self._journal.append(settlement)
        except OSError as error:
            logger.error(
                "a settlement can't be kept",
                extra=fields(row=settlement.id, reason=error.strerror),
            )
            self._unwritten.append(structs.replace(settlement, outcome="failed"))
            self._settled(settlement, durable, AccountsUnavailable())
            return False
        self._settled(settlement, durable, None)
        return True

    def _settled(
        self,
        settlement: Settlement,
        durable: asyncio.Future[None],
        failure: BaseException | None,
    ) -> None:
        if durable.cancelled():
            pass
        elif failure is None:
            durable.set_result(None)
        else:
            durable.set_exception(failure)
            durable.exception()  # seen, also if nobody waits
        self._answers.added(settlement.answer)

    def _amend(self, amendment: Amendment) -> None:
        assert self._writer is not None
        if not self._writer.failing:
            self._submit(_write_amendments, amendment, self._timeout)

    def _submit(self, work: Work, subject: object, seconds: float = 0.0) -> Operation[Any]:
        """Have something written whose failure needs no more than the writer's log line."""
        assert self._writer is not None
        operation = self._writer.submit(work, subject, seconds)
        operation.future.add_done_callback(_ignore_failure)
        return operation

    # Each second --------------------------------------------------------------------------

    async def _run(self) -> None:
        """Each second: heartbeat, checkpoints, journal. Each fifth: reap dead gateways.

        No step waits for another to succeed: whatever else fails, the heartbeat goes on, or the
        neighbours would close this gateway's rows as lost.
        """
        assert self._writer is not None
        for number in itertools.count(1):
            await asyncio.sleep(gateways.HEARTBEAT_INTERVAL)
            reap = number % _REAP_EVERY == 0
            with self._steps["beat"].step():
                beat = self._submit(self._write_heartbeat, None)
                beat.future.add_done_callback(self._on_beat)
            with self._steps["checkpoints"].step():
                self._submit_checkpoints()
            if self._writer.failing:
                continue
            if reap:
                await self._upkeep("neighbours", self._reap_neighbours)
            await self._upkeep("journal", self._replay)
            with self._steps["answers"].step():
                self._answers.enforce()

    async def _upkeep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a step that may take long. It's cut short before the next heartbeats would be late."""
        with self._steps[name].step():
            async with asyncio.timeout(_MAX_UPKEEP):
                await work()

    def _on_beat(self, beat: asyncio.Future[Any]) -> None:
        if not beat.cancelled() and beat.exception() is None:
            self._beat_at = time.monotonic()

    def _submit_checkpoints(self) -> None:
        moved = [c for r in self._open.values() if (c := r.checkpoint()) is not None]
        if moved:
            self._submit(_write_checkpoints, moved)

    async def _reap_neighbours(self) -> None:
        """Take over the journals of dead neighbours, then close the rows that they left open."""
        try:
            await asyncio.to_thread(self._take_over_journals)
        except StoreFailure:
            pass  # the writer has told
        except OSError as failure:  # its settlements correct their rows when they can be read
            self._leftovers.failed(failure)
        self._submit(self._write_heartbeat, self._held())

    async def _replay(self) -> None:
        """Write to the store what could not be written before."""
        assert self._journal is not None
        unwritten, self._unwritten = self._unwritten, []
        written = [asyncio.shield(self._write(settlement)) for settlement in unwritten]
        await asyncio.gather(*written, return_exceptions=True)
        while self._journal.pending:
            some = self._journal.pending[:_BATCH]
            futures = [self._submit(_write_settlements, one).future for one in some]
            results = await asyncio.gather(*futures, return_exceptions=True)
            if any(isinstance(result, BaseException) for result in results):
                return
            self._journal.done(len(some))
            self._answers.added(*(settlement.answer for settlement in some))
            logger.info(
                "settlements went from the journal to the store", extra=fields(count=len(some))
            )

    def _take_over_journals(self) -> None:
        """Write to the store what dead gateways on this host left in their journals.

        This comes before their open rows are closed as lost, or completed requests would be.
        """
        with left_behind(directory(self._store.settings.url)) as entries:
            for begin in range(0, len(entries), _BATCH):
                with self._store.write() as connection:
                    settle(connection, entries[begin : begin + _BATCH])
            if entries:
                logger.info(
                    "settlements of a gateway that died were in its journal",
                    extra=fields(count=len(entries)),
                )

    def _held(self) -> frozenset[int]:
        """The rows of requests that run, and of those whose settlements are on their way."""
        settling = [operation.subject for operation in self._settling]
        kept = [] if self._journal is None else self._journal.pending
        ended: list[Settlement] = [*settling, *kept, *self._unwritten]
        return frozenset([*self._open, *(one.id for one in ended)])

    def _write_heartbeat(
        self, connection: Connection, held: Sequence[frozenset[int] | None], is_retry: bool
    ) -> Sequence[None]:
        """Say that this gateway lives; where the rows that it holds are given, reap as well."""
        now = clock_ms(connection)
        if abs(now - self._seen_at) > gateways.DOUBT_AFTER_MS:
            self._doubts_until = now + gateways.DEAD_AFTER_MS
        self._seen_at = now
        gateways.heartbeat(connection, self._gateway, now)
        known = [rows for rows in held if rows is not None]
        if known:
            _reap(connection, self._gateway, now, by_silence=now >= self._doubts_until)
            _close_forgotten(connection, self._gateway, known[-1], now)
        return [None] * len(held)


def _write_settlements(
    connection: Connection, settlements: Sequence[Settlement], is_retry: bool
) -> Sequence[None]:
    settle(connection, settlements)
    return [None] * len(settlements)


def _write_amendments(
    connection: Connection, amendments: Sequence[Amendment], is_retry: bool
) -> Sequence[None]:
    amend(connection, amendments)
    return [None] * len(amendments)


def _write_checkpoints(
    connection: Connection, moments: Sequence[Sequence[Checkpoint]], is_retry: bool
) -> Sequence[None]:
    """Write the checkpoints of all open rows; those of one moment are one operation."""
    for checkpoints in moments:
        checkpoint(connection, checkpoints)
    return [None] * len(moments)


def _reap(connection: Connection, gateway_id: int, now: int, *, by_silence: bool) -> None:
    if closed := gateways.reap_dead(connection, gateway_id, now, by_silence=by_silence):
        logger.warning("closed requests of a gateway that died", extra=fields(count=closed))


def _close_forgotten(
    connection: Connection, gateway_id: int, held: frozenset[int], now: int
) -> None:
    if closed := gateways.close_forgotten(connection, gateway_id, held, now):
        logger.warning("closed requests that had failed", extra=fields(count=closed))


def _ignore_failure(future: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: the writer has logged it."""
    if not future.cancelled():
        future.exception()
