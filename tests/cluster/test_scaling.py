"""As many engines as requests need, and no more than they lately needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.cluster.scaling import Peak, engines_for, pause_after, within


@pytest.mark.parametrize(
    ("requests", "slots", "engines"),
    [(0, 8, 0), (1, 8, 1), (8, 8, 1), (9, 8, 2), (16, 8, 2), (3, 0, 3), (-2, 8, 0)],
)
def test_each_request_has_its_slot(requests: int, slots: int, engines: int) -> None:
    assert engines_for(requests, slots) == engines


def test_a_number_is_kept_within_its_bounds() -> None:
    assert [within(number, 1, 3) for number in (0, 1, 2, 3, 4)] == [1, 1, 2, 3, 3]


def test_pauses_double_up_to_half_a_minute() -> None:
    assert [pause_after(n) for n in (0, 1, 2, 3, 6, 7, 5000)] == [0, 0.5, 1, 2, 16, 30, 30]


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 9)), min_size=1), st.floats(0.1, 12))
def test_a_peak_is_the_highest_number_of_the_last_seconds(
    steps: list[tuple[float, int]], seconds: float
) -> None:
    peak, told, now = Peak(), [], 0.0
    for step, number in steps:
        now += step
        peak.add(now, number)
        told.append((now, number))
        assert peak.over(now, seconds) == max(n for at, n in told if at > now - seconds)


def test_a_peak_that_is_long_past_leaves_the_latest_number() -> None:
    peak = Peak()
    assert peak.over(0, 10) == 0
    peak.add(0, 5)
    peak.add(1, 2)
    assert (peak.over(9, 10), peak.over(10.5, 10), peak.over(99, 10)) == (5, 2, 2)
