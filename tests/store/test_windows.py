"""The windows of limits per minute: added to, corrected, read, deleted."""

from __future__ import annotations

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
