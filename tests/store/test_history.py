"""The last requests, over several gateways and starts of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, update

from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.history import last_requests, moment_of
from tests.store.ledger_helpers import ask, make_key, request

MINUTE = 60_000
NOW = 1_795_000_000_000


@pytest.fixture(autouse=True)
def key(store: Store) -> None:
    make_key(store)


def gateway(store: Store, id: int, seen_at: int) -> None:
    row = {"id": id, "process": "p", "started_at": 0, "seen_at": seen_at}
    with store.write() as connection:
        connection.execute(insert(schema.gateways), [row])


def add(store: Store, gateway: int, number: int, at: int, **more: Any) -> None:
    id = gateway * 2**40 + number
    ask(store, request(id, request_id=f"{gateway}.{number}", **more))
    with store.write() as connection:
        connection.execute(
            update(schema.ledger).where(schema.ledger.c.id == id).values(created_at=at)
        )


def last(store: Store, limit: int, **more: Any) -> list[str]:
    with store.read() as connection:
        return [row.request_id for row in last_requests(connection, limit, **more)]


def test_the_newest_come_first_whichever_gateway_had_them(store: Store) -> None:
    for id in (1, 2, 3):
        gateway(store, id, NOW)
    for number in range(1, 10):
        add(store, 1 + number % 3, number, NOW - MINUTE + number)
    assert last(store, 4) == ["1.9", "3.8", "2.7", "1.6"]
    assert len(last(store, 100)) == 9


def test_older_gateways_fill_the_list_up(store: Store) -> None:
    gateway(store, 1, NOW - 100 * MINUTE)
    gateway(store, 2, NOW)
    add(store, 1, 1, NOW - 102 * MINUTE)
    add(store, 1, 2, NOW - 101 * MINUTE)
    add(store, 2, 1, NOW - MINUTE)
    assert last(store, 1) == ["2.1"]
    assert last(store, 2) == ["2.1", "1.2"]
    assert last(store, 3) == ["2.1", "1.2", "1.1"]


def test_a_gateway_whose_sign_of_life_is_late_is_not_passed_over(store: Store) -> None:
    gateway(store, 1, NOW - MINUTE // 2)
    gateway(store, 2, NOW)
    add(store, 2, 1, NOW - MINUTE // 4)
    add(store, 1, 1, NOW)
    assert last(store, 1) == ["1.1"]


def test_keys_and_models_narrow_it_before_the_limit(store: Store) -> None:
    make_key(store, "key_b")
    gateway(store, 1, NOW)
    for number in range(1, 7):
        key = "key_a" if number % 2 else "key_b"
        add(store, 1, number, NOW + number, key=key, model="m" if number < 4 else "n")
    assert last(store, 2, key_ids=("key_a",)) == ["1.5", "1.3"]
    assert last(store, 2, model="m") == ["1.3", "1.2"]
    assert last(store, 2, key_ids=("key_b",), model="m") == ["1.2"]
    assert last(store, 2, key_ids=()) == []


def test_outcomes_narrow_it_and_none_is_what_runs(store: Store) -> None:
    gateway(store, 1, NOW)
    for number, outcome in enumerate(("ok", "failed", None, "lost", "ok"), start=1):
        add(store, 1, number, NOW + number)
        with store.write() as connection:
            of = schema.ledger.c.request_id == f"1.{number}"
            connection.execute(update(schema.ledger).where(of).values(outcome=outcome))
    assert last(store, 9, outcomes=("ok",)) == ["1.5", "1.1"]
    assert last(store, 9, outcomes=(None,)) == ["1.3"]
    assert last(store, 9, outcomes=("lost", None, "failed")) == ["1.4", "1.3", "1.2"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_follow_each_other_over_several_gateways(store: Store, size: int) -> None:
    """Also where rows of one moment, or of clocks that differ, meet the end of a page."""
    for id in (1, 2, 3):
        gateway(store, id, NOW)
    for number in range(1, 25):
        if number % 5:  # what is refused leaves holes in the numbers
            jitter = MINUTE // 2 if number % 7 == 0 else 0
            at = NOW - 15 * MINUTE + number // 2 * MINUTE + jitter
            add(store, 1 + number % 3, number, at)
    whole = last(store, 100)
    assert len(whole) == 20
    found: list[str] = []
    before = None
    while True:
        with store.read() as connection:
            page = last_requests(connection, size, before=before)
            if not page:
                break
            before = moment_of(connection, page[-1].id)
        found += [row.request_id for row in page]
    assert found == whole


def test_a_row_that_is_not_there_has_no_place(store: Store) -> None:
    with store.read() as connection:
        assert moment_of(connection, 5) is None
