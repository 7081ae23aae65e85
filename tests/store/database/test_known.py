"""What a writer knows, and what makes it forget."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import Connection, text

from reverie.store.database.engine import Store, Transactions
from reverie.store.database.known import known


class Seen(list[str]):
    """What was seen by whom."""


@pytest.fixture
def writer(store: Store) -> Transactions:
    if not store.is_sqlite:
        pytest.skip("with PostgreSQL nothing is known")
    transactions = store.transactions()
    with transactions.next() as connection:
        seen(connection).append("before")
    return transactions


def seen(connection: Connection) -> Seen:
    found = known(connection, Seen)
    assert found is not None
    return found


def write(connection: Connection) -> None:
    connection.execute(text("UPDATE limit_windows SET tokens = 0"))


def test_it_lasts_from_one_transaction_to_the_next_that_write_themselves(
    writer: Transactions,
) -> None:
    for _ in range(2):
        with writer.next() as connection:
            assert seen(connection) == ["before"]
            write(connection)
    writer.close()


def test_it_ends_when_another_connection_has_committed(store: Store, writer: Transactions) -> None:
    with store.write() as connection:
        connection.execute(text("INSERT INTO limit_windows VALUES ('a', 1, 1, 1)"))
    with writer.next() as connection:
        assert seen(connection) == []
        seen(connection).append("after")
    other = sqlite3.connect(str(store.path))
    with other:
        other.execute("DELETE FROM limit_windows")
    other.close()
    with writer.next() as connection:
        assert seen(connection) == []
    writer.close()


def test_it_ends_with_a_transaction_that_fails(writer: Transactions) -> None:
    with pytest.raises(ZeroDivisionError), writer.next() as connection:
        seen(connection).append("undone")
        raise ZeroDivisionError
    with writer.next() as connection:
        assert seen(connection) == []
    writer.close()


def test_it_ends_when_the_connection_is_lent_to_others(store: Store, writer: Transactions) -> None:
    """To the connection itself, what it committed for others is no change."""
    writer.close()
    with store.write() as connection:
        assert known(connection, Seen) is None
        write(connection)
    with writer.next() as connection:
        assert seen(connection) == []
    writer.close()


def test_nothing_is_known_where_others_may_write_meanwhile(store: Store) -> None:
    with store.read() as connection:
        assert known(connection, Seen) is None
    with store.write() as connection:
        assert known(connection, Seen) is None
    if not store.is_sqlite:
        transactions = store.transactions()
        with transactions.next() as connection:
            assert known(connection, Seen) is None
        transactions.close()
