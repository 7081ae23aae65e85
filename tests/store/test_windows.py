"""The windows of limits per minute: added to, corrected, read, deleted."""

from __future__ import annotations

import contextlib
import random

import pytest
from sqlalchemy import Connection

from reverie.store import windows
from reverie.store.database.engine import Store
from reverie.store.limits import SPAN, WindowSums
from reverie.store.windows import Corrections
from tests.store.ledger_helpers import rows

NOW = 1_800_000_000


def add(store: Store, second: int, **used: tuple[int, int]) -> None:
    with store.write() as connection:
        windows.add(connection, used, second)


def sums(store: Store, *subjects: str) -> dict[str, WindowSums]:
    with store.read() as connection:
        return windows.sums(connection, subjects, NOW)


def seconds(store: Store, subject: str) -> list[tuple[int, int, int]]:
    with store.read() as connection:
        return sorted(windows.seconds(connection, subject, NOW))


def test_what_is_added_in_one_second_is_summed_up(store: Store) -> None:
    add(store, NOW, a=(1, 10), b=(1, 5))
    add(store, NOW, a=(2, 20))
    add(store, NOW - 1, a=(1, 1))
    assert seconds(store, "a") == [(NOW - 1, 1, 1), (NOW, 3, 30)]
    assert sums(store, "a", "b", "c") == {
        "a": WindowSums(requests=4, tokens=31, last_request=NOW, last_token=NOW),
        "b": WindowSums(requests=1, tokens=5, last_request=NOW, last_token=NOW),
    }


def test_a_second_whose_tokens_were_all_given_back_holds_back_no_token(store: Store) -> None:
    add(store, NOW - 1, a=(1, 10))
    add(store, NOW, a=(1, 0))
    assert sums(store, "a") == {
        "a": WindowSums(requests=2, tokens=10, last_request=NOW, last_token=NOW - 1)
    }


def test_only_the_span_counts_and_no_row_of_the_far_future(store: Store) -> None:
    for second in (NOW - SPAN, NOW - SPAN + 1, NOW + SPAN - 1, NOW + SPAN):
        add(store, second, a=(1, 1))
    assert seconds(store, "a") == [(NOW - SPAN + 1, 1, 1), (NOW + SPAN - 1, 1, 1)]
    assert sums(store, "a")["a"].requests == 2


def test_a_correction_changes_tokens_and_makes_no_row(store: Store) -> None:
    add(store, NOW, a=(1, 100))
    with store.write() as connection:
        corrections = Corrections()
        corrections.add(["a", "b"], NOW, -60)
        corrections.add(["a"], NOW, 5)
        corrections.write(connection)
    assert seconds(store, "a") == [(NOW, 1, 45)]
    assert seconds(store, "b") == []


def test_rows_that_no_limit_looks_at_are_deleted(store: Store) -> None:
    for second in (NOW - 301, NOW - 300):
        add(store, second, a=(1, 1))
    with store.write() as connection:
        windows.sweep(connection, NOW)
    assert [row.second for row in rows(store, "limit_windows")] == [NOW - 300]


def test_what_was_deleted_while_the_clock_was_ahead_is_not_known_any_more(store: Store) -> None:
    writer = store.transactions()
    with writer.next() as connection:
        windows.add(connection, {"a": (1, 1)}, NOW)
        assert windows.sums(connection, ["a"], NOW)["a"].requests == 1
    with writer.next() as connection:
        windows.sweep(connection, NOW + 1000)
    with writer.next() as connection:
        assert windows.sums(connection, ["a"], NOW + 1).get("a", WindowSums()) == WindowSums()
    writer.close()


@pytest.mark.parametrize("seed", range(8))
def test_what_a_writer_knows_is_what_the_database_holds_whoever_writes_and_whatever_the_clock_does(
    store: Store, seed: int
) -> None:
    chance = random.Random(seed)
    subjects = ["a", "b", "c", "d"]
    writer, now = store.transactions(), NOW

    def change(connection: Connection) -> None:
        """What gateways do to windows."""
        match chance.choice(("add", "add", "add", "correct", "correct", "sweep")):
            case "add":
                some = chance.sample(subjects, chance.randint(1, 3))
                used = {s: (chance.randint(0, 3), chance.choice((0, 5, 70))) for s in some}
                windows.add(connection, used, now)
            case "correct":
                corrections = Corrections()
                for _ in range(3):
                    second = now - chance.randint(0, 70)
                    held = windows.seconds(connection, subject := chance.choice(subjects), now)
                    given_back = [-tokens for at, _, tokens in held if at == second]
                    corrections.add([subject], second, chance.choice([9, *given_back]))
                corrections.write(connection)
            case "sweep":
                windows.sweep(connection, now)

    for _ in range(300):
        now += chance.choice((0, 0, 0, 1, 1, 2, 30, 59, 60, 61, 62, 400, -1, -30, -61, -400))
        with store.write() if chance.random() < 0.2 else writer.next() as connection:
            change(connection)
        with contextlib.suppress(ZeroDivisionError), writer.next() as connection:
            change(connection)
            if chance.random() < 0.2:
                raise ZeroDivisionError  # nothing has happened
        with writer.next() as connection:
            known = windows.sums(connection, asked := chance.sample(subjects, 3), now)
        with store.read() as connection:
            held = windows.sums(connection, asked, now)
        assert {s: known.get(s, WindowSums()) for s in asked} == {
            s: held.get(s, WindowSums()) for s in asked
        }
    writer.close()
