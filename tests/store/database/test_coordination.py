"""Gateways that share a database decide one after the other, by one clock."""

from __future__ import annotations

import threading
import time

from reverie.store.database.coordination import clock, lock
from reverie.store.database.engine import Store


def test_a_lock_on_a_subject_is_held_until_the_transaction_ends(store: Store) -> None:
    order: list[str] = []

    def second() -> None:
        with store.write() as connection:
            lock(connection, ["b", "a"])
            order.append("second")

    other = threading.Thread(target=second)
    with store.write() as connection:
        lock(connection, ["a", "b"])
        other.start()
        other.join(0.2)  # time for one that doesn't wait for us
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_the_clock_tells_the_time(store: Store) -> None:
    with store.read() as connection:
        assert abs(clock(connection) - time.time()) < 60
