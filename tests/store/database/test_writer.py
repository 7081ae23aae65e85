"""The writer commits together what gathered, tries again, and gives up in time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from reverie.background import FAILURES, failing
from reverie.errors import StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.writer import Operation, Writer

WriteTo = Callable[..., Operation[Any]]


class Numbers:
    """A table of numbers, and the work of adding some; a negative one can't be added."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def add(self, connection: Connection, numbers: Sequence[int], again: bool) -> list[int]:
        self.batches.append(list(numbers))
        for number in numbers:
            connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})
        return [2 * number for number in numbers]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/numbers.db", timeout=0.2))
    with opened.write() as connection:
        connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY, CHECK (n >= 0))"))
    yield opened
    opened.close()


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
async def orphans() -> list[int]:
    return []


@pytest.fixture
async def writer(store: Store, numbers: Numbers, orphans: list[int]) -> AsyncIterator[Writer]:
    running = Writer(store, [numbers.add], lambda operation: orphans.append(operation.subject))
    yield running
    if running.started:
        await running.stop()


def held(store: Store) -> list[int]:
    with store.read() as connection:
        return list(connection.scalars(text("SELECT n FROM numbers ORDER BY n")))


async def test_each_caller_gets_its_own_result_once_it_is_committed(
    store: Store, writer: Writer, numbers: Numbers
) -> None:
    operations = [writer.submit(numbers.add, number, 5) for number in range(50)]
    writer.start()
    results = await asyncio.gather(*(operation.future for operation in operations))
    assert results == [2 * number for number in range(50)]
    assert held(store) == list(range(50))
    assert len(numbers.batches) == 1  # they had gathered before it began


async def test_what_comes_in_one_turn_of_the_loop_is_committed_together(
    writer: Writer, numbers: Numbers
) -> None:
    """The thread waits already, and would begin with the first of them."""
    writer.start()
    for turn in (0, 10):
        operations = [writer.submit(numbers.add, turn + number, 5) for number in range(10)]
        await asyncio.gather(*(operation.future for operation in operations))
    assert numbers.batches == [list(range(10)), list(range(10, 20))]


async def test_all_kinds_of_operations_are_committed_together_on_sqlite(
    store: Store, numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Numbers()
    writer = Writer(store, [others.add, numbers.add], lambda _: None)
    begun = 0
    transaction = writer._transactions.next

    def count() -> AbstractContextManager[Connection]:
        nonlocal begun
        begun += 1
        return transaction()

    monkeypatch.setattr(writer._transactions, "next", count)
    operations = [writer.submit(kind.add, n, 5) for n, kind in enumerate((numbers, others) * 2)]
    writer.start()
    assert await asyncio.gather(*(one.future for one in operations)) == [0, 2, 4, 6]
    assert (others.batches, numbers.batches, begun) == ([[1, 3]], [[0, 2]], 1)
    await writer.stop()


async def test_a_bug_in_one_kind_of_work_fails_no_other_of_the_same_transaction(
    store: Store, numbers: Numbers
) -> None:
    def broken(connection: Connection, given: Sequence[int], again: bool) -> list[int]:
        raise ZeroDivisionError

    writer = Writer(store, [numbers.add, broken], lambda _: None)
    at_fault, sound = writer.submit(broken, 1, 5), writer.submit(numbers.add, 2, 5)
    writer.start()
    with pytest.raises(ZeroDivisionError):
        await at_fault.future
    assert await sound.future == 4
    assert held(store) == [2]
    await writer.stop()


async def test_one_that_comes_alone_is_not_kept_waiting_for_company(
    writer: Writer, numbers: Numbers
) -> None:
    writer.start()
    for number in range(3):
        await writer.submit(numbers.add, number, 5).future
    assert numbers.batches == [[0], [1], [2]]


async def test_one_that_cannot_be_written_fails_alone(
    store: Store, writer: Writer, numbers: Numbers
) -> None:
    operations = [writer.submit(numbers.add, number, 5) for number in (1, -2, 3)]
    writer.start()
    results = await asyncio.gather(
        *(operation.future for operation in operations), return_exceptions=True
    )
    assert (results[0], results[2]) == (2, 6)
    assert isinstance(results[1], StoreFailure)
    assert not results[1].transient
    assert held(store) == [1, 3]


async def test_a_store_that_is_locked_for_a_while_is_tried_again(
    store: Store, writer: Writer, numbers: Numbers
) -> None:
    other = sqlite3.connect(str(store.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.start()
    operation = writer.submit(numbers.add, 1, 30)
    while not writer.failing:
        await asyncio.sleep(0.01)
    other.execute("ROLLBACK")
    other.close()
    assert await operation.future == 2
    assert not writer.failing
    assert held(store) == [1]


async def test_what_comes_while_another_process_writes_joins_the_transaction_that_waits(
    tmp_path: Path, store: Store, numbers: Numbers
) -> None:
    patient = Store(StoreSettings(url=f"sqlite:///{tmp_path}/numbers.db", timeout=30))
    writer = Writer(patient, [numbers.add], lambda _: None)
    other = sqlite3.connect(str(store.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.start()
    operations = [writer.submit(numbers.add, 1, 30)]
    while writer.waiting:  # until its thread has taken the first
        await asyncio.sleep(0.01)
    operations += [writer.submit(numbers.add, 2, 30), writer.submit(numbers.add, 3, 30)]
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(writer.stop())
    await asyncio.sleep(0.01)
    other.execute("ROLLBACK")
    other.close()
    assert await asyncio.gather(*(one.future for one in operations)) == [2, 4, 6]
    await stopping
    assert numbers.batches == [[1, 2, 3]]
    patient.close()


async def test_an_operation_whose_time_is_over_fails_and_leaves_nothing(
    store: Store, writer: Writer, numbers: Numbers
) -> None:
    other = sqlite3.connect(str(store.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.start()
    operation = writer.submit(numbers.add, 1, 0.01)
    with pytest.raises(StoreFailure):
        await operation.future
    other.execute("ROLLBACK")
    other.close()
    assert held(store) == []


async def test_what_nobody_waits_for_any_more_is_not_begun(
    store: Store, writer: Writer, numbers: Numbers, orphans: list[int]
) -> None:
    gone, wanted = (writer.submit(numbers.add, number, 5) for number in (1, 2))
    gone.future.cancel()
    writer.start()
    await wanted.future
    assert held(store) == [2]
    assert orphans == []


async def test_what_was_committed_after_its_caller_had_gone_is_reported(
    store: Store, writer: Writer, numbers: Numbers, orphans: list[int]
) -> None:
    operation = writer.submit(numbers.add, 1, 5)

    def add_and_lose_the_caller(connection: Connection, given: Sequence[int], again: bool) -> Any:
        operation.future.get_loop().call_soon_threadsafe(operation.future.cancel)
        return Numbers.add(numbers, connection, given, again)

    operation.work = add_and_lose_the_caller
    writer._kinds = [add_and_lose_the_caller]
    writer.start()
    async with asyncio.timeout(10):
        while not orphans:
            await asyncio.sleep(0.01)
    assert orphans == [1]
    assert held(store) == [1]


async def test_a_commit_whose_answer_gets_lost_when_its_time_is_over_is_reported(
    store: Store,
    writer: Writer,
    numbers: Numbers,
    orphans: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transaction = writer._transactions.next

    @contextmanager
    def write_and_lose_the_answer() -> Iterator[Connection]:
        with transaction() as connection:
            yield connection
        raise StoreFailure("the connection broke")

    monkeypatch.setattr(writer._transactions, "next", write_and_lose_the_answer)
    writer.start()
    with pytest.raises(StoreFailure):
        await writer.submit(numbers.add, 1, 0).future
    assert orphans == [1]
    assert held(store) == [1]


async def test_what_no_database_takes_fails_its_callers_and_not_the_writer(
    writer: Writer, numbers: Numbers
) -> None:
    writer.start()
    with pytest.raises(StoreFailure):
        await writer.submit(numbers.add, object(), 5).future
    assert await writer.submit(numbers.add, 5, 5).future == 10


async def test_a_bug_in_the_work_fails_its_callers_and_not_the_writer(
    store: Store, numbers: Numbers
) -> None:
    def broken(connection: Connection, given: Sequence[int], again: bool) -> list[int]:
        raise ZeroDivisionError

    writer = Writer(store, [broken, numbers.add], lambda _: None)
    writer.start()
    with pytest.raises(ZeroDivisionError):
        await writer.submit(broken, 1, 5).future
    assert await writer.submit(numbers.add, 5, 5).future == 10
    await writer.stop()


async def test_a_bug_where_an_end_is_told_keeps_no_other_from_its_own(
    writer: Writer, numbers: Numbers
) -> None:
    def fails(_operation: Operation[Any], _failure: Exception | None) -> None:
        raise ZeroDivisionError

    at_fault = writer.submit(numbers.add, 1, 5, fails)
    other = writer.submit(numbers.add, 2, 5)
    before = FAILURES["store writer"]
    writer.start()
    assert await asyncio.gather(at_fault.future, other.future) == [2, 4]
    assert FAILURES["store writer"] == before + 1


async def test_stopping_writes_what_was_submitted(
    store: Store, writer: Writer, numbers: Numbers
) -> None:
    writer.start()
    for number in range(600):
        writer.submit(numbers.add, number, 5)
    await writer.stop()
    assert len(held(store)) == 600


@pytest.mark.parametrize("failure", [OSError("injected"), RuntimeError("injected")])
async def test_a_bug_of_the_writer_itself_fails_its_callers_and_not_the_thread(
    writer: Writer,
    numbers: Numbers,
    orphans: list[int],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    writer.start()
    before = FAILURES["store writer"]
    with monkeypatch.context() as broken:
        broken.setattr(writer, "_still_wanted", fail)
        operation = writer.submit(numbers.add, 1, 10)
        with pytest.raises(type(failure)):
            await operation.future
    assert (writer.started, FAILURES["store writer"]) == (True, before + 1)
    assert await writer.submit(numbers.add, 2, 10).future == 4


async def test_a_thread_that_ended_unasked_is_told_of(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_take", lambda: ([], True))
    writer.start()
    async with asyncio.timeout(10):
        while "store writer" not in failing():
            await asyncio.sleep(0.01)
    writer._watch.end()
