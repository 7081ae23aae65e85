"""Prepared statements do as SQLAlchemy's own would, and are few to the database."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, event, select

from reverie.errors import StoreFailure
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.prepared import Prepared, add_into, sqlite_of

WINDOWS = schema.limit_windows
FIND = Prepared(
    lambda _, subjects: (
        select(WINDOWS.c.subject).where(WINDOWS.c.subject.in_(subjects)).order_by(WINDOWS.c.subject)
    )
)


ADD = add_into(WINDOWS)


def fill(store: Store, *subjects: str, tokens: int = 0) -> None:
    with store.write() as connection:
        ADD.execute_many(
            connection,
            [
                {"tokens": tokens, "requests": 1, "second": 2**40, "subject": subject}
                for subject in subjects
            ],
        )


def found(connection: Connection, *subjects: str) -> list[str]:
    return [row.subject for row in FIND.execute(connection, listed=subjects)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 300])
def test_a_list_of_any_length_finds_what_is_in_it(store: Store, count: int) -> None:
    names = [f"{number:03}" for number in range(count)]
    fill(store, *names, "another")
    with store.read() as connection:
        assert found(connection, *names, "none") == names


def test_a_row_that_is_there_is_added_to_and_others_are_inserted(store: Store) -> None:
    fill(store, "a", "b", tokens=1)
    fill(store, "b", "c", tokens=2)
    with store.read() as connection:
        rows = connection.execute(select(WINDOWS).order_by(WINDOWS.c.subject)).all()
    assert [(row.subject, row.second, row.requests, row.tokens) for row in rows] == [
        ("a", 2**40, 1, 1),
        ("b", 2**40, 2, 3),
        ("c", 2**40, 1, 2),
    ]


def test_a_text_with_quotes_and_percent_signs_is_a_value_and_nothing_else(store: Store) -> None:
    strange = "'); DROP TABLE keys; -- %s %(x)s ? :name \\"
    fill(store, strange)
    with store.read() as connection:
        assert found(connection, strange) == [strange]


def test_the_database_sees_few_texts_for_lists_of_many_lengths(store: Store) -> None:
    seen: set[str] = set()
    event.listen(store.engine, "before_cursor_execute", lambda _, __, sql, *rest: seen.add(sql))
    with store.read() as connection:
        seen.clear()
        if (own := sqlite_of(connection)) is not None:
            own.set_trace_callback(seen.add)
        for count in range(1, 65):
            FIND.execute(connection, listed=["a"] * count)
        if own is not None:
            own.set_trace_callback(None)
    assert len(seen) == 7


def test_what_a_database_refuses_fails_as_any_other_statement(store: Store) -> None:
    with pytest.raises(StoreFailure), store.write() as connection:
        ADD.execute_many(connection, [{"tokens": None, "requests": 1, "second": 1, "subject": "a"}])
    with store.read() as connection:
        assert found(connection, "a") == []
