"""A store is a database whose transactions wait, fail and last as they should."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text

from reverie.errors import ConfigurationError, StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store, parse_url
from reverie.store.database.migrate import migrate
from reverie.store.database.prepared import insert_into

_GATEWAY = {"process": "p", "started_at": 1, "seen_at": 1}


def _gateways(store: Store) -> int:
    with store.read() as connection:
        return len(connection.execute(select(schema.gateways.c.id)).all())


@pytest.mark.parametrize(
    "url", ["", "reverie.db", "mysql://host/db", "sqlite:", "sqlite:///:memory:", "sqlite://"]
)
def test_an_address_that_can_t_hold_accounts_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^store\.url: "):
        parse_url(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_every_postgresql_address_means_the_driver_that_is_here(scheme: str) -> None:
    assert parse_url(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/deep/down/store.db"))
    with store.write():
        pass
    store.close()
    assert (tmp_path / "deep" / "down" / "store.db").exists()


def test_a_folder_that_can_t_be_made_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="can't be made"):
        Store(StoreSettings(url=f"sqlite:///{tmp_path}/file/store.db"))


def test_those_who_open_a_new_file_at_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    failures: list[StoreFailure] = []

    def open_it(file: Path) -> None:
        store = Store(StoreSettings(url=f"sqlite:///{file}"))
        barrier.wait()
        try:
            with store.read():
                pass
        except StoreFailure as failure:
            failures.append(failure)
        store.close()

    for number in range(100):
        file = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=open_it, args=(file,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_what_is_written_is_there_afterwards(store: Store) -> None:
    with store.write() as connection:
        connection.execute(insert(schema.gateways).values(_GATEWAY))
    assert _gateways(store) == 1


def test_a_block_that_fails_writes_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        with store.write() as connection:
            connection.execute(insert(schema.gateways).values(_GATEWAY))
            raise ZeroDivisionError
    assert _gateways(store) == 0


@pytest.mark.parametrize("order", ["own first", "own last", "own alone", "none of its own"])
def test_transactions_of_one_thread_write_all_or_nothing_by_either_kind_of_statement(
    store: Store, order: str
) -> None:
    own = insert_into(schema.limit_windows)
    values = {"subject": "a", "second": 1, "requests": 1, "tokens": 1}

    def write(connection: Connection) -> None:
        if order in ("own first", "own alone"):
            own.execute_many(connection, [values])
        if order != "own alone":
            connection.execute(insert(schema.gateways).values(_GATEWAY))
        if order == "own last":
            own.execute_many(connection, [values])

    def written() -> tuple[int, int]:
        with store.read() as connection:
            return _gateways(store), len(connection.execute(select(schema.limit_windows)).all())

    transactions = store.transactions()
    with pytest.raises(ZeroDivisionError), transactions.next() as connection:
        write(connection)
        raise ZeroDivisionError
    assert written() == (0, 0)
    with transactions.next() as connection:
        write(connection)
    with transactions.next():
        assert written() == (int(order != "own alone"), int(order != "none of its own"))
    transactions.close()


def test_a_transaction_of_one_thread_waits_for_no_longer_than_the_stores_timeout(
    tmp_path: Path,
) -> None:
    file = tmp_path / "store.db"
    store = Store(StoreSettings(url=f"sqlite:///{file}", timeout=0.05))
    migrate(store)
    transactions = store.transactions()
    with store.write(), pytest.raises(StoreFailure, match="locked") as caught:
        with transactions.next():
            pass
    assert caught.value.transient
    with transactions.next() as connection:
        connection.execute(insert(schema.gateways).values(_GATEWAY))
    transactions.close()
    assert _gateways(store) == 1
    with store.write() as connection:  # on the connection that was given back
        assert connection.scalar(text("PRAGMA busy_timeout")) == 50
    store.close()


def test_writers_at_once_wait_for_each_other(store: Store) -> None:
    """On SQLite, one that began as a reader would fail at once instead."""
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                with store.write() as connection:
                    count = len(connection.execute(select(schema.gateways.c.id)).all())
                    row = {**_GATEWAY, "seen_at": count}
                    connection.execute(insert(schema.gateways).values(row))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert _gateways(store) == 40


def test_a_violated_constraint_is_a_failure_of_the_store_without_its_values(store: Store) -> None:
    with pytest.raises(StoreFailure) as caught, store.write() as connection:
        connection.execute(insert(schema.gateways).values(_GATEWAY | {"process": None}))
    assert "\n" not in str(caught.value)
    assert "INSERT" not in str(caught.value)


def test_readers_continue_while_one_writes(store: Store) -> None:
    with store.write() as connection:
        connection.execute(insert(schema.gateways).values(_GATEWAY))
        assert _gateways(store) == 0


def test_a_lock_that_isn_t_given_up_ends_in_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = Store(StoreSettings(url=f"sqlite:///{file}", timeout=0.05))
    with store.write() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailure, match="is locked by another program"), store.write():
        pass
    other.close()
    store.close()


def test_a_slow_statement_is_cut_off(postgres_database: str) -> None:
    store = Store(StoreSettings(url=postgres_database, timeout=0.1))
    with (
        pytest.raises(StoreFailure, match=r"longer than store\.timeout"),
        store.read() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(60)"))
    store.close()


def test_a_server_that_isn_t_there_is_a_failure_without_its_address(tmp_path: Path) -> None:
    store = Store(StoreSettings(url=f"postgresql://me:secret@/d?host={tmp_path}", timeout=1))
    with pytest.raises(StoreFailure) as caught, store.read():
        pass
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    store.close()


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_durability_against_the_loss_of_power_costs_an_fsync(
    tmp_path: Path, durability: str, synchronous: int
) -> None:
    settings = {"url": f"sqlite:///{tmp_path}/store.db", "durability": durability}
    store = Store(StoreSettings.model_validate(settings))
    with store.read() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == synchronous
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    store.close()


def test_options_in_a_postgresql_address_are_honoured_beside_ours(postgres_database: str) -> None:
    url = f"{postgres_database}&options=-c%20work_mem%3D8MB"
    store = Store(StoreSettings(url=url, timeout=7))
    with store.read() as connection:
        assert connection.execute(text("SHOW work_mem")).scalar() == "8MB"
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "7s"
    store.close()


def test_only_its_owner_can_read_a_new_file(tmp_path: Path) -> None:
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/new.db"))
    migrate(store)
    with store.write() as connection:
        connection.exec_driver_sql("CREATE TABLE t (c INTEGER)")
    files = [file for file in tmp_path.glob("new.db*") if file.suffix != ".lock"]  # which is empty
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}, files
    store.close()
