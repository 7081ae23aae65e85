"""Backups of stores and their restore, on either database and from one to the other."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, text

from reverie.errors import ConfigurationError, StoreFailure, UnusableBackup, UpkeepError
from reverie.settings import StoreSettings
from reverie.store import gateways, keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate, revision
from reverie.store.reservations import Granted
from reverie.store.settlements import Settlement, settle
from reverie.store.upkeep import backup
from reverie.store.upkeep.archive import ArchiveReader, ArchiveWriter, Summary, verify
from reverie.store.upkeep.backup import restore_backup, write_backup
from reverie.times import now_ms
from tests.store.filled import REVISIONS, contents, make
from tests.store.ledger_helpers import GATEWAY, ask, close, make_key, request, rows, settled


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """An empty store on SQLite."""
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/other.db", timeout=10))
    yield opened
    opened.close()


@pytest.fixture
def bare(store_url: str) -> Iterator[Store]:
    """A database without tables."""
    opened = Store(StoreSettings(url=store_url, timeout=10), unhurried=True)
    yield opened
    opened.close()


def backed_up(store: Store, journal: list[Settlement] | None = None) -> io.BytesIO:
    file = io.BytesIO()
    write_backup(store, file, journal or [], now_ms(), lambda _: None)
    file.seek(0)
    return file


def restore(store: Store, file: io.BytesIO, *, replace: bool = False, now: int = 0) -> None:
    restore_backup(store, file, now or now_ms(), lambda _: None, replace=replace)


def without_restores(found: dict[str, Any]) -> dict[str, Any]:
    """The contents, without the gateway that a restore adds."""
    columns, lines = found["gateways"]
    return {**found, "gateways": (columns, [line for line in lines if "restore" not in line])}


def test_a_store_comes_back_as_it_was(bare: Store, other: Store) -> None:
    make(bare, schema.HEAD)
    before = contents(bare)
    assert all(lines for _, lines in before.values())
    restore(other, backed_up(bare))
    assert without_restores(contents(other)) == before


def test_a_sqlite_store_moves_to_the_other_database_and_back(bare: Store, other: Store) -> None:
    make(other, schema.HEAD)
    before = contents(other)
    restore(bare, backed_up(other))
    again = backed_up(bare)
    restore(other, again, replace=True)
    assert without_restores(contents(other)) == before


@pytest.mark.parametrize("old", REVISIONS[:-1])
def test_a_backup_of_an_older_version_is_brought_up_to_date(
    bare: Store, other: Store, old: str
) -> None:
    make(other, old)
    before = contents(other)
    file = backed_up(other)
    assert verify(file).head.revision == old
    restore(bare, file)
    assert revision(bare) == schema.HEAD
    after = without_restores(contents(bare))
    for table, found in before.items():
        assert after[table] == found


def test_a_restored_store_serves_keys_limits_and_new_requests(bare: Store, other: Store) -> None:
    migrate(other)
    make_key(other, "key_a", budget=10_000, budget_period="day", currency="USD")
    ask(other, request(GATEWAY << 40 | 1, cost=2000))
    close(other, settled(GATEWAY << 40 | 1, prompt=40, completion=10))
    restore(bare, backed_up(other))
    with bare.read() as connection:
        key = keys.by_hash(connection, keys.hash_of(b"key_a"))
    assert key is not None
    assert key.budget == 10_000
    (granted,) = ask(bare, request(9 << 40, cost=10_000 - 1400))
    assert isinstance(granted, Granted)
    (refused,) = ask(bare, request(9 << 40 | 1, cost=1))
    assert not isinstance(refused, Granted)


def test_a_backup_is_one_moment_while_others_write(bare: Store, other: Store) -> None:
    """Each transaction opens and closes a request, so that rows and sums agree at any moment."""
    migrate(bare)
    make_key(bare)
    done = threading.Event()
    written = threading.Semaphore(0)

    def go_on() -> None:
        number = 0
        while not done.is_set():
            number += 1
            ask(bare, request(number))
            close(bare, settled(number))
            written.release()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for _ in range(3):
            for _ in range(3):
                assert written.acquire(timeout=60)
            seen: list[int] = []

            def wait_for_writes(count: int, seen: list[int] = seen) -> None:
                seen.append(count)
                assert written.acquire(timeout=60)  # the writer isn't held up by the backup

            file = io.BytesIO()
            write_backup(bare, file, [], now_ms(), wait_for_writes)
            assert seen
            restore(other, file, replace=True)
            with other.read() as connection:
                closed = connection.execute(
                    select(func.count(), func.sum(schema.ledger.c.prompt_tokens)).where(
                        schema.ledger.c.outcome.is_not(None)
                    )
                ).one()
                summed = connection.execute(
                    select(
                        func.sum(schema.usage_daily.c.requests),
                        func.sum(schema.usage_daily.c.prompt_tokens),
                    )
                ).one()
            assert tuple(closed) == tuple(summed)
    finally:
        done.set()
        writer.join()


def test_settlements_in_a_journal_are_in_the_backup(bare: Store, other: Store) -> None:
    migrate(bare)
    make_key(bare)
    ask(bare, request(1), request(2))
    close(bare, settled(1))
    restore(other, backed_up(bare, [settled(1), settled(2, prompt=30)]))
    found = sorted((row.id, row.outcome, row.prompt_tokens) for row in rows(other))
    assert found == [(1, "ok", 40), (2, "ok", 30)]
    assert [(day.requests, day.prompt_tokens) for day in rows(other, "usage_daily")] == [(2, 70)]


def test_what_a_gateway_left_after_the_backup_finds_no_row_of_another(
    bare: Store, other: Store
) -> None:
    migrate(bare)
    with bare.write() as connection:
        before = gateways.register(connection, now_ms())
        gateways.leave(connection, before, now_ms())
    file = backed_up(bare)
    with bare.write() as connection:
        lost = gateways.register(connection, now_ms())  # it leaves a settlement in its journal
    with bare.write() as connection:
        gateways.leave(connection, lost, now_ms())
    restore(bare, file, replace=True)
    with bare.write() as connection:
        after = gateways.register(connection, now_ms())
    assert after > lost
    make_key(bare)
    ask(bare, request(after << 40))
    close(bare, settled(lost << 40))
    assert [row.outcome for row in rows(bare)] == [None]


def test_a_store_that_isnt_empty_is_kept_unless_it_may_be_lost(bare: Store, other: Store) -> None:
    migrate(other)
    file = backed_up(other)
    migrate(bare)
    make_key(bare)
    before = contents(bare)
    with pytest.raises(UpkeepError, match=r"isn't empty.*--replace"):
        restore(bare, file)
    assert contents(bare) == before
    restore(bare, file, replace=True)
    assert rows(bare, "keys") == []


def test_a_store_on_which_a_gateway_runs_is_kept(bare: Store, other: Store) -> None:
    migrate(other)
    file = backed_up(other)
    migrate(bare)
    now = now_ms()
    with bare.write() as connection:
        number = gateways.register(connection, now)
    for clock in (now, now + 600_000):  # of the machine on which the command runs
        with pytest.raises(UpkeepError, match="one gateway runs on the store; stop every"):
            restore(bare, file, replace=True, now=clock)
    assert len(rows(bare, "gateways")) == 1
    with bare.write() as connection:
        gateways.heartbeat(connection, number, now - gateways.DEAD_AFTER_MS - 1)
    restore(bare, file)  # it is gone


def test_no_gateway_starts_in_the_midst_of_a_restore(bare: Store, monkeypatch: Any) -> None:
    """It would lose its place among those that run, and its numbers."""
    migrate(bare)
    file = backed_up(bare)
    hurried = Store(bare.settings.model_copy(update={"timeout": 0.5}))
    refused: list[StoreFailure] = []
    drop = backup._drop_tables

    def meanwhile(connection: Any) -> None:
        try:
            with hurried.write() as other:
                gateways.register(other, now_ms())
        except StoreFailure as failure:
            refused.append(failure)
        drop(connection)

    monkeypatch.setattr(backup, "_drop_tables", meanwhile)
    restore(bare, file, replace=True)
    assert refused
    hurried.close()


def test_a_gateway_that_starts_while_the_backup_is_checked_keeps_its_store(
    bare: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(other)
    migrate(bare)
    make_key(bare)

    def verify_meanwhile(file: io.BytesIO) -> Summary:
        with bare.write() as connection:
            gateways.register(connection, now_ms())
        return verify(file)

    monkeypatch.setattr(backup, "verify", verify_meanwhile)
    with pytest.raises(UpkeepError, match="one gateway runs on the store"):
        restore(bare, backed_up(other), replace=True)
    assert len(rows(bare, "keys")) == 1


def test_a_damaged_backup_changes_nothing_and_makes_no_file(bare: Store, other: Store) -> None:
    make(bare, schema.HEAD)
    before = contents(bare)
    whole = backed_up(bare).getvalue()
    for data in (whole[:-20], whole[: len(whole) // 2], b"no backup"):
        with pytest.raises(UnusableBackup):
            restore(bare, io.BytesIO(data), replace=True)
        with pytest.raises(UnusableBackup):
            restore(other, io.BytesIO(data))
    assert contents(bare) == before
    assert other.path is not None
    assert not other.path.exists()


def test_a_backup_that_changes_while_it_is_read_changes_nothing(bare: Store) -> None:
    make(bare, schema.HEAD)
    before = contents(bare)
    whole = backed_up(bare).getvalue()

    class Changing(io.BytesIO):
        """Is whole when it is read for the first time."""

        def seek(self, place: int, whence: int = 0, /) -> int:
            if place == 0 and self.tell() > 100:
                self.truncate(len(whole) - 30)
            return super().seek(place, whence)

    with pytest.raises(UnusableBackup):
        restore(bare, Changing(whole), replace=True)
    assert contents(bare) == before


def _with(file: io.BytesIO, **changes: Any) -> io.BytesIO:
    """The backup again, with another head or other tables."""
    reader = ArchiveReader(file)
    head = reader.head
    new = io.BytesIO()
    writer = ArchiveWriter(new, type(head)(**{**_fields(head), **changes.get("head", {})}))
    begun = ""
    for batch in reader.batches():
        table = changes.get("tables", {}).get(batch.table, batch.table)
        if table != begun:
            writer.begin(table, [*batch.columns, *changes.get("columns", [])])
        begun = table
        writer.add([[*row, *changes.get("columns", [])] for row in batch.rows])
    writer.end()
    new.seek(0)
    return new


def _fields(head: Any) -> dict[str, Any]:
    return {name: getattr(head, name) for name in head.__struct_fields__}


def test_a_backup_of_a_newer_version_is_refused_with_both_revisions(bare: Store) -> None:
    make(bare, schema.HEAD)
    before = contents(bare)
    newer = _with(backed_up(bare), head={"revision": "9999", "version": "7.0.0"})
    with pytest.raises(UnusableBackup, match=rf"\(7\.0\.0\).*9999.*up to {schema.HEAD}"):
        restore(bare, newer, replace=True)
    assert contents(bare) == before


@pytest.mark.parametrize("change", [{"tables": {"keys": "locks"}}, {"columns": ["more"]}])
def test_a_backup_with_other_tables_than_its_revision_has_is_refused(
    bare: Store, change: dict[str, Any]
) -> None:
    make(bare, schema.HEAD)
    before = contents(bare)
    with pytest.raises(UnusableBackup, match="aren't those of its revision"):
        restore(bare, _with(backed_up(bare), **change), replace=True)
    assert contents(bare) == before


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("ledger", "prompt_tokens", "many"),
        ("ledger", "prompt_tokens", 1.5),
        ("ledger", "cost", 2**70),
        ("ledger", "estimated", 3),
        ("keys", "name", None),
        ("keys", "name", 5),
        ("keys", "hash", "no base64!"),
        ("journal", "settlement", 5),
        ("journal", "settlement", "{}"),
        ("journal", "settlement", '{"id":1,"outcome":"unheard","ended_at":1}'),
        ("journal", "settlement", f'{{"id":{2**70},"outcome":"ok","ended_at":1}}'),
    ],
)
def test_values_that_no_store_holds_are_refused(
    other: Store, table: str, column: str, value: object
) -> None:
    """SQLite itself would take a text for a number; the file's own hash is right."""
    make(other, schema.HEAD)
    before = contents(other)
    reader = ArchiveReader(backed_up(other, [settled(1)]))
    file = io.BytesIO()
    writer = ArchiveWriter(file, reader.head)
    for batch in reader.batches():
        writer.begin(batch.table, batch.columns)
        changed = [dict(zip(batch.columns, row, strict=True)) for row in batch.rows]
        if batch.table == table:
            changed[-1][column] = value
        writer.add([list(row.values()) for row in changed])
    writer.end()
    with pytest.raises(UnusableBackup, match=r"use another backup"):
        restore(other, file, replace=True)
    assert contents(other) == before


def test_a_store_of_a_newer_version_is_neither_backed_up_nor_replaced(
    bare: Store, other: Store
) -> None:
    make(bare, schema.HEAD)
    file = backed_up(bare)
    with bare.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="9999"):
        backed_up(bare)
    with pytest.raises(ConfigurationError, match="9999"):
        restore(bare, file, replace=True)
    assert len(rows(bare, "keys")) == 6


def test_there_is_no_backup_of_nothing(bare: Store) -> None:
    with pytest.raises(UpkeepError, match="nothing to back up"):
        backed_up(bare)


def test_a_disk_that_gets_full_in_a_restore_leaves_the_store_as_it_was(other: Store) -> None:
    migrate(other)
    make_key(other)
    before = contents(other)
    source = Store(StoreSettings(url=f"sqlite:///{other.path}.source"))
    migrate(source)
    with source.write() as connection:
        key = {"weight": 1, "created_at": 1, "name": "n" * 500}
        connection.execute(
            insert(schema.keys), [{**key, "id": f"{n}", "hash": b"%d" % n} for n in range(3000)]
        )
    file = backed_up(source)
    source.close()
    limit = {"pages": 200}
    event.listen(
        other.engine,
        "begin",
        lambda connection: connection.exec_driver_sql(
            f"PRAGMA max_page_count = {limit['pages']}"
        ).close(),
    )
    with pytest.raises(StoreFailure, match="disk is full"):
        restore(other, file, replace=True)
    assert contents(other) == before
    limit["pages"] = 2**30
    restore(other, file, replace=True)
    assert len(rows(other, "keys")) == 3000


def test_a_transaction_of_another_isnt_waited_for_without_end(bare: Store, store_url: str) -> None:
    """The store stays as it was, and the operator is told what holds it up."""
    make(bare, schema.HEAD)
    file = backed_up(bare)
    hurried = Store(StoreSettings(url=store_url, timeout=0.2), unhurried=True)
    with bare.write() as connection:
        settle(connection, [])
        connection.execute(text("DELETE FROM keys"))
        with pytest.raises(StoreFailure, match="lock"):
            restore(hurried, file, replace=True)
    hurried.close()
