"""Gateways that share a store notice each other's deaths, and close what the dead left open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import update

from reverie.store import gateways
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.gateways import DEAD_AFTER_MS, register
from reverie.store.reservations import reserve
from reverie.times import now_ms
from tests.store.ledger_helpers import make_key, request, rows

PRINT_PROCESS = (
    "import sys; from reverie.store.gateways import this_process;"
    "print(this_process(), flush=True); sys.stdin.read()"
)


@pytest.fixture
def neighbour() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process on this host, and how it calls itself."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def enter(store: Store, process: str | None = None, seen_ago: int = 0) -> int:
    """Register a gateway, with an open row."""
    with store.write() as connection:
        number = register(connection, now_ms() - seen_ago)
        reserve(connection, [request(number << 40 | 1)], number)
        if process is not None:
            connection.execute(
                update(schema.gateways)
                .where(schema.gateways.c.id == number)
                .values(process=process)
            )
    return number


def reap(store: Store, by: int) -> int:
    with store.write() as connection:
        return gateways.reap_dead(connection, by, now_ms())


def open_rows(store: Store) -> set[int]:
    return {row.gateway_id for row in rows(store) if row.outcome is None}


@pytest.fixture(autouse=True)
def key(store: Store) -> None:
    make_key(store)


def test_each_start_has_a_number_of_its_own(store: Store) -> None:
    assert len({enter(store) for _ in range(3)}) == 3


@pytest.mark.integration
def test_a_neighbour_that_lives_is_left_alone(
    store: Store, neighbour: tuple[subprocess.Popen[str], str]
) -> None:
    me, other = enter(store), enter(store, neighbour[1])
    assert reap(store, me) == 0
    assert open_rows(store) == {me, other}


@pytest.mark.integration
def test_a_neighbour_that_was_killed_is_noticed_at_once(
    store: Store, neighbour: tuple[subprocess.Popen[str], str]
) -> None:
    me, other = enter(store), enter(store, neighbour[1])
    neighbour[0].kill()
    neighbour[0].wait()
    assert reap(store, me) == 1
    assert open_rows(store) == {me}
    assert {row.outcome for row in rows(store) if row.gateway_id == other} == {"lost"}
    assert reap(store, me) == 0


def test_a_gateway_elsewhere_is_given_up_when_it_has_been_silent_for_long(store: Store) -> None:
    me = enter(store)
    silent = enter(store, "elsewhere/boot/ns 1 1", seen_ago=DEAD_AFTER_MS + 1000)
    quiet = enter(store, "elsewhere/boot/ns 2 2", seen_ago=DEAD_AFTER_MS - 5000)
    assert reap(store, me) == 1
    assert open_rows(store) == {me, quiet}
    assert silent not in open_rows(store)


def test_one_that_was_given_up_and_lives_is_back_with_its_next_heartbeat(store: Store) -> None:
    me, other = enter(store), enter(store, "elsewhere/boot/ns 1 1", seen_ago=60_000)
    reap(store, me)
    with store.write() as connection:
        gateways.heartbeat(connection, other, now_ms())
    row = next(row for row in rows(store, "gateways") if row.id == other)
    assert row.ended_at is None


def test_one_that_left_in_order_is_not_looked_at_again(store: Store) -> None:
    me, other = enter(store), enter(store, "elsewhere/boot/ns 1 1", seen_ago=60_000)
    with store.write() as connection:
        gateways.leave(connection, other, now_ms())
    assert reap(store, me) == 0


def test_of_its_own_rows_a_gateway_closes_old_ones_that_nobody_holds(store: Store) -> None:
    me, other = enter(store), enter(store)
    held, forgotten, young = (me << 40 | number for number in (2, 3, 4))
    with store.write() as connection:
        reserve(connection, [request(id) for id in (held, forgotten, young)], me)
        connection.execute(
            update(schema.ledger)
            .where(schema.ledger.c.id.not_in([young]))
            .values(created_at=now_ms() - 61_000)
        )
        assert gateways.close_forgotten(connection, me, {held, me << 40 | 1}, now_ms()) == 1
        assert gateways.close_forgotten(connection, me, {held, me << 40 | 1}, now_ms()) == 0
    assert {row.id: row.outcome for row in rows(store)} == {
        me << 40 | 1: None, held: None, forgotten: "lost", young: None, other << 40 | 1: None,
    }  # fmt: skip


def test_old_windows_are_deleted(store: Store) -> None:
    now = now_ms() // 1000
    with store.write() as connection:
        for second in (now - 1000, now):
            connection.execute(
                schema.limit_windows.insert().values(
                    subject="s", second=second, requests=1, tokens=1
                )
            )
    reap(store, enter(store))
    assert [row.second for row in rows(store, "limit_windows")] == [now]
