"""Rows of the ledger are found as they are, whether a writer knows them or reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, event

from reverie.money import Price
from reverie.store.database.engine import Store, Transactions
from reverie.store.database.prepared import sqlite_of
from reverie.store.ledger_rows import LedgerRow, insert, to_amend, to_close
from reverie.store.settlements import Amendment, Settlement, amend, settle
from tests.store.ledger_helpers import rows

NOW = 1_000_000


@pytest.fixture
def writer(store: Store) -> Iterator[Transactions]:
    transactions = store.transactions()
    yield transactions
    transactions.close()


def row(id: int, **more: object) -> LedgerRow:
    given = {"key_id": "a", "model": "m", "idempotency_key": None, "reserved_tokens": 100, **more}
    return LedgerRow(id=id, price=Price(1, 2, 3, "USD"), created_at=NOW, **given)  # type: ignore[arg-type]


def opened(writer: Transactions, *ids: int) -> None:
    with writer.next() as connection:
        insert(connection, [(row(id), f"req_{id}", 7) for id in ids], gateway_id=1)


@contextlib.contextmanager
def reads_of(store: Store, connection: Connection) -> Iterator[list[str]]:
    """The statements that read the ledger meanwhile."""
    seen: list[str] = []

    def note(sql: str) -> None:
        if sql.startswith("SELECT") and "ledger" in sql:
            seen.append(sql)

    own = sqlite_of(connection)
    if own is None:
        event.listen(store.engine, "before_cursor_execute", lambda _, __, sql, *rest: note(sql))
    else:
        own.set_trace_callback(note)
    yield seen
    if own is not None:
        own.set_trace_callback(None)


def test_a_row_is_found_as_it_was_opened(writer: Transactions) -> None:
    opened(writer, 1, 2)
    with writer.next() as connection:
        assert to_amend(connection, [1, 2, 3]) == {1: row(1), 2: row(2)}
        assert to_close(connection, [2, 3]) == {2: row(2)}


def test_on_sqlite_a_writer_does_not_read_what_it_opened(
    store: Store, writer: Transactions
) -> None:
    opened(writer, 1)
    with writer.next() as connection, reads_of(store, connection) as reads:
        to_close(connection, [1])
    assert len(reads) == (0 if store.is_sqlite else 1)


def test_what_another_connection_closed_is_seen(store: Store, writer: Transactions) -> None:
    opened(writer, 1)
    with store.write() as connection:
        settle(connection, [Settlement(id=1, outcome="ok", ended_at=NOW, prompt_tokens=5)])
    with writer.next() as connection:
        found = to_close(connection, [1])[1]
    assert (found.outcome, found.figures) == ("ok", (5, 0, 0, 5))


def test_a_row_that_was_undone_is_not_found(writer: Transactions) -> None:
    with pytest.raises(ZeroDivisionError), writer.next() as connection:
        insert(connection, [(row(1), "req_1", 7)], gateway_id=1)
        raise ZeroDivisionError
    with writer.next() as connection:
        assert to_close(connection, [1]) == {}


def test_a_closing_that_was_undone_is_made_again(store: Store, writer: Transactions) -> None:
    opened(writer, 1)
    settlement = Settlement(id=1, outcome="ok", ended_at=NOW, completion_tokens=5)
    with pytest.raises(ZeroDivisionError), writer.next() as connection:
        settle(connection, [settlement])
        raise ZeroDivisionError
    for _ in range(2):  # it counts once
        with writer.next() as connection:
            settle(connection, [settlement])
    assert [found.outcome for found in rows(store)] == ["ok"]
    assert [(day.requests, day.cost) for day in rows(store, "usage_daily")] == [(1, 15)]


def test_what_was_amended_is_known(writer: Transactions) -> None:
    opened(writer, 1)
    with writer.next() as connection:
        amend(connection, [Amendment(1, 40, 4)])
    with writer.next() as connection:
        assert to_close(connection, [1])[1].reserved_tokens == 40


def test_an_open_row_has_no_outcome_and_no_figures(store: Store, writer: Transactions) -> None:
    opened(writer, 1)
    [found] = rows(store)
    assert found.request_id == "req_1"
    assert (found.reserved_tokens, found.reserved_cost, found.created_at) == (100, 7, NOW)
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (0, 0, 0)
    assert (found.cost, found.estimated, found.outcome, found.backend) == (0, False, None, None)
    assert found.first_token_at is None
    assert found.ended_at is None
