from __future__ import annotations

import pytest

from reverie.gateway.stops import SeamStops


@pytest.mark.parametrize(
    ("before", "after", "verdicts"),
    [
        ("Hello E", ["ND"], ["stop"]),
        ("Hello E", ["N", "D and more"], ["hold", "stop"]),
        ("Hello E", ["N", "", "D"], ["hold", "hold", "stop"]),
        ("Hello E", ["N", "dless"], ["hold", "pass"]),
        ("Hello EN", ["d"], ["pass"]),
        ("EE", ["ND"], ["stop"]),
    ],
)
def test_a_stop_string_across_the_seam_is_met_at_its_last_character(
    before: str, after: list[str], verdicts: list[str]
) -> None:
    stops = SeamStops(["END"], before)
    assert stops.possible
    assert [stops.feed(text) for text in after] == verdicts


@pytest.mark.parametrize("before", ["Hello", "", "the END", "E N"])
def test_a_text_that_begins_no_stop_string_is_never_held_up(before: str) -> None:
    assert not SeamStops(["END"], before).possible


def test_of_several_stop_strings_any_that_may_have_begun_is_looked_for() -> None:
    stops = SeamStops(["aab", "abX", "b"], "caa")
    assert stops.possible
    assert stops.feed("b") == "stop"
    other = SeamStops(["aab", "abX"], "ca")
    assert other.feed("b") == "hold"
    assert other.feed("Y") == "pass"
