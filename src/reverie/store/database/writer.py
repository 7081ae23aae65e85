"""A gateway's one writer: a thread that commits together whatever operations have gathered.

Rule 1: an operation's future is resolved only after its commit.

Rule 2: an operation has a deadline. Until then, a store that is locked, slow or down is tried
again; then the operation fails, and whoever waits for it decides what that means.

Rule 3: operations are repeatable. If the answer to a commit is lost, the operation is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection

from reverie.background import Watch
from reverie.errors import StoreFailure
from reverie.log import fields
from reverie.store.database.engine import Store

logger = logging.getLogger("reverie.store")

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection, Sequence[Any], bool], Sequence[Any]]
"""Writes all operations of one kind: (connection, their subjects, is_retry) → their results."""

_MAX_BATCH = 512
"""Operations after which no more are added to a batch."""
_RETRY_DELAY = 0.05


class Operation(Generic[T]):
    """One thing to write.

    Args:
        work: writes it, together with others of the same ``work``.
        subject: what is written.
        seconds: how long that may take.
        on_end: called in the event loop with the operation and what it failed of, at once when that
            is known. The future then holds no failure.
    """

    __slots__ = ("deadline", "future", "on_end", "subject", "tried", "work")

    def __init__(
        self,
        work: Work,
        subject: object,
        seconds: float,
        loop: asyncio.AbstractEventLoop,
        on_end: OnEnd | None = None,
    ) -> None:
        self.work = work
        self.subject: Any = subject
        self.deadline = time.monotonic() + seconds
        self.future: asyncio.Future[T] = loop.create_future()
        self.on_end = on_end
        self.tried = False

    @property
    def given_up(self) -> bool:
        """True if its caller has left, or was told that it failed."""
        future = self.future
        return future.done() and (future.cancelled() or future.exception() is not None)

    def end(self, result: Any, failure: Exception | None) -> bool:
        """Tell the caller; False if it heard of an end before."""
        if self.future.done():
            return False
        if failure is None or self.on_end is not None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failure)
        if self.on_end is not None:
            self.on_end(self, failure)
        return True


OnEnd: TypeAlias = Callable[[Operation[Any], Exception | None], None]


class Writer:
    """Commits operations in the order of their arrival, those of one kind together.

    On SQLite one transaction takes all kinds, since a transaction costs much there.

    Args:
        kinds: every ``work`` there is, in the order in which a batch is written.
        on_orphan: called in the event loop with an operation that was or may have been committed,
            although nobody waited for it any more or its future was failed.
        on_commit: called in the writer's thread with the seconds that a transaction took.
    """

    def __init__(
        self,
        store: Store,
        kinds: Sequence[Work],
        on_orphan: Callable[[Operation[Any]], None],
        on_commit: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._joins_kinds = store.is_sqlite
        self._transactions = store.transactions()
        self._kinds = kinds
        self._on_orphan = on_orphan
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Operation[Any]] = []
        self._queue: queue.SimpleQueue[list[Operation[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reverie-store", daemon=True)
        self._watch = Watch("store writer", overdue=lambda: self._begun and not self.started)
        self._begun = False
        self._ended = False
        """True once no more operations will come."""
        self._handed_over = 0
        self._taken = 0
        self.failing = False
        """True if the last transaction failed."""

    @property
    def started(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()
        self._begun = True

    def submit(
        self, work: Work, subject: object, seconds: float, on_end: OnEnd | None = None
    ) -> Operation[Any]:
        """Queue an operation. Its future is resolved once it is committed."""
        operation: Operation[Any] = Operation(work, subject, seconds, self._loop, on_end)
        self._gathered.append(operation)
        if len(self._gathered) == 1:
            # After what this turn of the loop brings: a transaction costs much, and each of its
            # operations little. To wait for more turns would save transactions, but requests
            # would then go on in step: all at once, and all idle at once.
            self._loop.call_soon(self._hand_over)
        return operation

    @property
    def waiting(self) -> int:
        """Operations that no transaction has begun to write."""
        return len(self._gathered) + self._handed_over - self._taken

    async def stop(self) -> None:
        """Write what was submitted, and end."""
        self._hand_over()
        self._watch.end()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        """Give the gathered operations to the thread."""
        gathered, self._gathered = self._gathered, []
        self._handed_over += len(gathered)
        for begin in range(0, len(gathered), _MAX_BATCH):  # each of these may wake the thread
            self._queue.put(gathered[begin : begin + _MAX_BATCH])

    def _run(self) -> None:
        try:
            self._write_until_stopped()
        finally:
            self._transactions.close()

    def _write_until_stopped(self) -> None:
        while not self._ended:
            batch = self._take()
            if self._joins_kinds:
                if batch:
                    self._commit_watched(batch)
                continue
            # Locks are taken in one order within each kind, so that no two gateways deadlock.
            for _, of_kind in self._by_kind(batch):
                self._commit_watched(of_kind)

    def _by_kind(self, batch: Sequence[Operation[Any]]) -> list[tuple[Work, list[Operation[Any]]]]:
        """The kinds that there are in a batch, in the order in which they are written."""
        sorted_out: dict[Work, list[Operation[Any]]] = {work: [] for work in self._kinds}
        for operation in batch:
            sorted_out[operation.work].append(operation)
        return [(work, operations) for work, operations in sorted_out.items() if operations]

    def _take(self) -> list[Operation[Any]]:
        """Wait for operations, and take them with those that are queued behind them."""
        gathered = self._queue.get()
        if gathered is None:
            self._ended = True
            return []
        self._taken += len(gathered)
        return gathered + self._take_queued(_MAX_BATCH - len(gathered))

    def _take_queued(self, room: int) -> list[Operation[Any]]:
        """Take what is queued, without a wait, for as long as there is room for more."""
        batch: list[Operation[Any]] = []
        while len(batch) < room and not self._ended:
            try:
                gathered = self._queue.get_nowait()
            except queue.Empty:
                break
            if gathered is None:
                self._ended = True
            else:
                batch += gathered
                self._taken += len(gathered)
        return batch

    def _commit_watched(self, batch: list[Operation[Any]]) -> None:
        """Commit; whatever happens, this thread goes on, and nobody waits for ever."""
        try:
            self._commit(batch)
        except Exception as bug:
            self._watch.failed(bug)
            self._resolve([(operation, None) for operation in batch], bug)

    def _commit(self, batch: list[Operation[Any]]) -> None:
        while batch := self._still_wanted(batch):
            results: list[tuple[Operation[Any], Any]] = []
            began = time.monotonic()
            try:
                with self._transactions.next() as connection:
                    if self._joins_kinds:  # the lock may have taken a while
                        batch = batch + self._take_queued(_MAX_BATCH - len(batch))
                    batch = self._still_wanted(batch)
                    for work, of_kind in self._by_kind(batch):
                        results += _write(connection, work, of_kind)
                    for operation in batch:
                        operation.tried = True  # the answer to the commit may get lost
            except StoreFailure as failure:
                self._log_change(failure)
                if not failure.transient and len(batch) > 1:
                    for operation in batch:  # only the one at fault must fail
                        self._commit([operation])
                    return
                batch = self._give_up(batch, failure)
            except Exception as bug:
                kinds = self._by_kind(batch)
                if len(kinds) > 1:
                    for _, of_kind in kinds:  # only the kind at fault must fail
                        self._commit(of_kind)
                    return
                self._watch.failed(bug)
                self._resolve([(operation, None) for operation in batch], bug)
                return
            else:
                self._watch.failures = 0
                self._on_commit(time.monotonic() - began)
                self._log_change(None)
                self._resolve(results)
                return

    def _still_wanted(self, batch: list[Operation[Any]]) -> list[Operation[Any]]:
        """Leave out operations that nobody waits for. They may have been committed by a try."""
        gone = [operation for operation in batch if operation.given_up]
        self._resolve([(operation, None) for operation in gone if operation.tried])
        return [operation for operation in batch if operation not in gone] if gone else batch

    def _give_up(self, batch: list[Operation[Any]], failure: StoreFailure) -> list[Operation[Any]]:
        """Fail the operations whose deadline has passed; after a pause, return the others."""
        now = time.monotonic()
        late = [op for op in batch if not failure.transient or op.deadline <= now]
        self._resolve([(operation, None) for operation in late], failure)
        rest = [operation for operation in batch if operation not in late]
        if rest:
            time.sleep(_RETRY_DELAY)
        return rest

    def _log_change(self, failure: StoreFailure | None) -> None:
        """Write one log line when the store fails, and one when it is back."""
        if failure is None and self.failing:
            logger.info("the store is back")
        elif failure is not None and not self.failing:
            logger.error("the store fails", extra=fields(reason=str(failure)))
        self.failing = failure is not None

    def _resolve(
        self, results: Sequence[tuple[Operation[Any], Any]], failure: Exception | None = None
    ) -> None:
        if results:
            self._loop.call_soon_threadsafe(self._resolve_here, results, failure)

    def _resolve_here(
        self, results: Sequence[tuple[Operation[Any], Any]], failure: Exception | None
    ) -> None:
        for operation, result in results:
            try:
                waited_for = operation.end(result, failure)
                if operation.tried and not (waited_for and failure is None):
                    self._on_orphan(operation)
            except Exception as bug:  # the others have their ends, too
                self._watch.failed(bug)


def _write(
    connection: Connection, work: Work, operations: Sequence[Operation[Any]]
) -> list[tuple[Operation[Any], Any]]:
    """Have operations of one kind written; return them with their results."""
    subjects = [operation.subject for operation in operations]
    is_retry = any(operation.tried for operation in operations)
    return list(zip(operations, work(connection, subjects, is_retry), strict=True))
