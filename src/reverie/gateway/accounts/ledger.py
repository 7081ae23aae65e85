"""The ledger as the gateway uses it: reserve before the work, settle before its last chunk.

Rule 1: no work begins without a row, and no answer is completed before its row is closed: in the
store, or, where that can't be had, in the journal beside it.

Rule 2: nothing here waits longer for the store than ``store.timeout``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection

from reverie.errors import AccountsUnavailable, RateStatus, ReverieError
from reverie.gateway.record import RequestRecord
from reverie.log import fields
from reverie.store import answers, gateways
from reverie.store.answers import StoredAnswer
from reverie.store.database.engine import Store, StoreFailure
from reverie.store.journal import Journal, directory, left_behind
from reverie.store.keys import now_ms
from reverie.store.reserve import Granted, Order, Result, own_base, reserve
from reverie.store.settle import Checkpoint, Outcome, Settlement, checkpoint, settle
from reverie.store.writer import Operation, Writer

logger = logging.getLogger("reverie.ledger")

_ROW_BITS = 40
"""Bits of a row's number that its gateway counts up; its own number is above them."""
_REAP_EVERY = 5
"""Beats between two looks for dead gateways."""
_MAX_WAITING = 10_000
"""Operations that may wait for the store before new requests are refused at once."""
_LOOKS = 16
"""Looks whether too many answers are kept, for each time that so many were added."""
_BATCH = 500
"""Journal entries brought to the store in one go."""


class Reservation(Protocol):
    """One request's place in the ledger. The end of its record closes it, if nothing else did."""

    rate: RateStatus | None
    """What is left of the caller's limits."""
    base: int
    """The events of its answer are numbered from the next number on, if they are numbered."""

    async def settle(self, answer: bytes | None = None) -> None:
        """Close it with what its record says; returns when that is durable. Idempotent.

        Args:
            answer: the whole answer, to be given again to the same ``Idempotency-Key``.

        Raises:
            AccountsUnavailable: it could be kept nowhere.
        """


class Ledger:
    """The ledger of one store, for one running gateway."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._timeout = store.settings.timeout
        self._durable = store.settings.durability == "power"
        self._open: dict[int, StoredReservation] = {}
        self._unwritten: list[Settlement] = []
        self._most_kept = store.settings.kept_answers_mib * 1024 * 1024
        self._kept = self._most_kept  # as if by those before
        self._evicting: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._writer: Writer | None = None
        self._journal: Journal | None = None
        self._gateway = 0
        self._rows: Iterator[int] = itertools.count()
        self._heartbeat_task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the store took what it was last given."""
        return self._writer is not None and not self._writer.failing

    @property
    def journalled(self) -> int:
        """Settlements that wait in the journal for the store."""
        return 0 if self._journal is None else len(self._journal.pending)

    @property
    def open(self) -> int:
        """Rows that this gateway has open."""
        return len(self._open)

    async def start(self) -> None:
        """Enter this gateway, and close what dead ones left.

        Raises:
            StoreFailure: the database can't be used.
        """
        folder = directory(self._store.settings.url)
        self._journal = Journal(folder, durable=self._durable)
        self._gateway = await asyncio.to_thread(self._register)
        first = (self._gateway << _ROW_BITS) + 1
        self._rows = itertools.count(first)
        self._writer = Writer(
            self._store,
            [_write_settlements, _write_checkpoints, self._write_heartbeat, self._write_orders],
            self._undo,
        )
        self._writer.start()
        self._heartbeat_task = asyncio.create_task(self._heartbeat())

    async def stop(self) -> None:
        """Write what there is to write, and leave. Idempotent."""
        if self._heartbeat_task is None or self._writer is None:
            return
        beating, self._heartbeat_task = self._heartbeat_task, None
        beating.cancel()
        for reservation in list(self._open.values()):
            reservation.end()
        await asyncio.gather(beating, *self._settling, return_exceptions=True)
        if self._evicting is not None:
            await asyncio.wait({self._evicting})
        await self._replay()
        await self._writer.stop()
        if self._journal is not None:
            self._journal.done(0)  # an entry that had no room left the file there
        with contextlib.suppress(StoreFailure):
            await asyncio.to_thread(self._leave)

    async def reserve(
        self, order: Order, record: RequestRecord
    ) -> StoredReservation | StoredAnswer:
        """Open a row within the limits; wait for it to be durable.

        Returns:
            The row, or the answer that was given to the same claim before.

        Raises:
            RateLimitExceeded, InsufficientQuota, ModelNotAllowed, InvalidApiKey: as the store says.
            IdempotencyKeyReused, RequestInProgress, AnswerNotKept: of the order's claim.
            AccountsUnavailable: it doesn't answer in time.
        """
        assert self._writer is not None
        if self._writer.waiting > _MAX_WAITING:
            raise AccountsUnavailable
        operation = self._writer.submit(self._write_orders, order, self._timeout)
        try:
            async with asyncio.timeout(self._timeout):
                result = await operation.future
        except BaseException as end:
            self._abandon(operation)
            if isinstance(end, TimeoutError | StoreFailure):
                raise AccountsUnavailable from None
            raise
        if isinstance(result, ReverieError):
            raise result
        if isinstance(result, StoredAnswer):
            return result
        reservation = StoredReservation(self, order, result, record)
        self._open[order.id] = reservation
        record.at_end = reservation.end
        return reservation

    def next_row(self) -> int:
        """A number for a new row."""
        return next(self._rows)

    def write(self, settlement: Settlement) -> asyncio.Task[None]:
        """Make a settlement durable, in the store or in the journal, whoever waits for it.

        The task raises ``AccountsUnavailable`` if neither can be written; its row is then closed
        as failed as soon as one can be.
        """
        task = asyncio.create_task(self._write(settlement))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        task.add_done_callback(_seen)
        task.add_done_callback(lambda _: self._count_answers(settlement))
        return task

    async def _write(self, settlement: Settlement) -> None:
        assert self._writer is not None
        operation = None
        if not self._writer.failing:
            operation = self._writer.submit(_write_settlements, settlement, self._timeout)
            operation.future.add_done_callback(_seen)
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.shield(operation.future)
            except (TimeoutError, StoreFailure):
                pass
            else:
                return
        assert self._journal is not None
        try:
            self._journal.append(settlement)
        except OSError as error:
            logger.error("a settlement can't be kept", extra=fields(reason=error.strerror))
            if operation is not None:
                operation.future.cancel()  # its client will be told that it failed
            self._unwritten.append(msgspec.structs.replace(settlement, outcome="failed"))
            raise AccountsUnavailable from None

    def _count_answers(self, *settlements: Settlement) -> None:
        """Count what is kept once it is in the store: a look that comes before would not find it,
        and still begin to count anew.
        """
        self._kept += sum(len(settlement.answer or b"") for settlement in settlements)

    def forget(self, row: int) -> None:
        """A row is closed, or on its way to be."""
        self._open.pop(row, None)

    def _abandon(self, operation: Operation[Any]) -> None:
        """Wait no longer for an order. It may have been done in this turn of the event loop."""
        future = operation.future
        if future.cancel() or future.cancelled() or future.exception() is not None:
            return
        if isinstance(future.result(), Granted):
            self._undo(operation)

    def _undo(self, operation: Operation[Any]) -> None:
        """Close a row that was opened after whoever ordered it had gone."""
        if isinstance(operation.subject, Order):
            self.write(Settlement(id=operation.subject.id, outcome="failed", ended_at=now_ms()))

    async def _heartbeat(self) -> None:
        """Each second: a sign of life, checkpoints, the journal; now and then: burials."""
        assert self._writer is not None
        for number in itertools.count(1):
            await asyncio.sleep(gateways.HEARTBEAT_INTERVAL)
            reap = number % _REAP_EVERY == 0
            if reap and not self._writer.failing:
                with contextlib.suppress(OSError, StoreFailure):
                    await asyncio.to_thread(self._take_over_journals)
            self._writer.submit(self._write_heartbeat, reap, 0.0).future.add_done_callback(_seen)
            moved = [c for r in self._open.values() if (c := r.checkpoint()) is not None]
            for moved_one in moved:
                operation = self._writer.submit(_write_checkpoints, moved_one, 0.0)
                operation.future.add_done_callback(_seen)
            if not self._writer.failing:
                await self._replay()
                self._keep_bounded()

    def _keep_bounded(self) -> None:
        """Look whether too many answers are kept, once enough were added for that."""
        if self._kept * _LOOKS < self._most_kept or self._evicting is not None:
            return
        self._kept = 0
        self._evicting = asyncio.create_task(asyncio.to_thread(self._evict))
        self._evicting.add_done_callback(self._has_evicted)

    def _evict(self) -> None:
        with self._store.read() as connection:
            until = answers.evictable_until(connection, self._most_kept)
        if until is not None:
            with self._store.write() as connection:
                answers.evict(connection, until)

    def _has_evicted(self, task: asyncio.Task[None]) -> None:
        self._evicting = None
        if task.cancelled() or task.exception() is not None:
            self._kept = self._most_kept  # look again

    async def _replay(self) -> None:
        """Bring what could not be written before to the store."""
        assert self._journal is not None
        assert self._writer is not None
        unwritten, self._unwritten = self._unwritten, []
        written = [asyncio.shield(self.write(settlement)) for settlement in unwritten]
        await asyncio.gather(*written, return_exceptions=True)
        while self._journal.pending:
            some = self._journal.pending[:_BATCH]
            operations = [
                self._writer.submit(_write_settlements, settlement, 0.0) for settlement in some
            ]
            results = await asyncio.gather(
                *(operation.future for operation in operations), return_exceptions=True
            )
            if any(isinstance(result, BaseException) for result in results):
                return
            self._journal.done(len(some))
            self._count_answers(*some)
            logger.info(
                "settlements went from the journal to the store", extra=fields(count=len(some))
            )

    def _register(self) -> int:
        with self._store.write() as connection:
            number = gateways.register(connection, now_ms())
        self._take_over_journals()
        with self._store.write() as connection:
            _reap(connection, number)
        return number

    def _take_over_journals(self) -> None:
        """Bring to the store what gateways here that died had kept from it. That comes before their
        burial, which would close as lost what was completed.
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

    def _leave(self) -> None:
        with self._store.write() as connection:
            gateways.leave(connection, self._gateway, now_ms())

    def _write_orders(
        self, connection: Connection, orders: Sequence[Order], again: bool
    ) -> Sequence[Result]:
        return reserve(connection, orders, self._gateway, again=again)

    def _write_heartbeat(
        self, connection: Connection, reap: Sequence[bool], again: bool
    ) -> Sequence[None]:
        gateways.heartbeat(connection, self._gateway, now_ms())
        if any(reap):
            _reap(connection, self._gateway)
        return [None] * len(reap)


class StoredReservation:
    """One request's open row."""

    __slots__ = ("_ledger", "_limited", "_order", "_record", "_sent", "_settled", "base", "rate")

    def __init__(
        self, ledger: Ledger, order: Order, granted: Granted, record: RequestRecord
    ) -> None:
        self.rate = granted.rate
        self.base = granted.base
        self._limited = granted.limited
        self._ledger = ledger
        self._order = order
        self._record = record
        self._settled = False
        self._sent = 0

    async def settle(self, answer: bytes | None = None) -> None:
        """As ``Reservation.settle``."""
        if self._settled:
            return
        self._settled = True
        self._ledger.forget(self._order.id)
        outcome: Outcome = "length" if self._record.outcome == "length" else "ok"
        await asyncio.shield(self._ledger.write(self._settlement(outcome, answer)))

    def end(self) -> None:
        """Close it as its record ended, without waiting. Idempotent."""
        if self._settled:
            return
        self._settled = True
        self._ledger.forget(self._order.id)
        cancelled = self._record.outcome == "cancelled"
        self._ledger.write(self._settlement("cancelled" if cancelled else "failed"))

    def checkpoint(self) -> Checkpoint | None:
        """How far it has come, if that is further than at the last call."""
        pieces = self._record.pieces
        if pieces == self._sent:
            return None
        self._sent = pieces
        prompt, completion = self._counted()
        return Checkpoint(self._order.id, prompt, completion, self._first_token_at())

    def _settlement(self, outcome: Outcome, answer: bytes | None = None) -> Settlement:
        record = self._record
        told = record.completion_tokens is not None and record.prompt_tokens is not None
        prompt, completion = self._counted()
        return Settlement(
            id=self._order.id,
            outcome=outcome,
            prompt_tokens=prompt,
            cached_tokens=min(prompt, record.cached_tokens),
            completion_tokens=completion,
            estimated=not told or record.estimated,
            backend=record.backend,
            first_token_at=self._first_token_at(),
            ended_at=now_ms(),
            limited=self._limited,
            answer=answer,
        )

    def _counted(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer: the engine's count, else what was delivered.

        A request that nothing was delivered of used nothing.
        """
        record = self._record
        if record.completion_tokens is not None:
            return record.prompt_tokens or 0, record.completion_tokens
        if not record.pieces:
            return 0, 0
        return record.prompt_tokens or self._order.prompt_tokens, record.pieces

    def _first_token_at(self) -> int | None:
        if self._record.first_token is None:
            return None
        ago = time.monotonic() - self._record.first_token
        return now_ms() - int(ago * 1000)


class Unrecorded:
    """A request of a gateway without a ledger, which can't know what there was before."""

    rate: RateStatus | None = None

    def __init__(self) -> None:
        self.base = own_base(time.time())

    async def settle(self, answer: bytes | None = None) -> None:
        pass


def _write_settlements(
    connection: Connection, settlements: Sequence[Settlement], again: bool
) -> Sequence[None]:
    settle(connection, settlements)
    return [None] * len(settlements)


def _write_checkpoints(
    connection: Connection, checkpoints: Sequence[Checkpoint], again: bool
) -> Sequence[None]:
    checkpoint(connection, checkpoints)
    return [None] * len(checkpoints)


def _reap(connection: Connection, gateway_id: int) -> None:
    if closed := gateways.reap_dead(connection, gateway_id, now_ms()):
        logger.warning("closed requests of a gateway that died", extra=fields(count=closed))


def _seen(future: asyncio.Future[Any]) -> None:
    """Let a failure that the writer has logged be."""
    if not future.cancelled():
        future.exception()
