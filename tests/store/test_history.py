"""The last requests, over several gateways and starts of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, update

from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.history import last_requests
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
