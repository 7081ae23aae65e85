"""The plot has each value in a bin, round ticks, and is well-formed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from reverie.load.plot import bins, svg, ticks
from tests.load.test_figures import answered, reported


def test_every_value_is_in_a_bin() -> None:
    assert bins([0.0, 1.0, 2.0, 9.9, 10.0], 5) == (0.0, 10.0, [2, 1, 0, 0, 2])
    assert sum(bins([3.0, 3.0], 5)[2]) == 2


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(0.0, 10.0, [0, 2, 4, 6, 8, 10]), (195.0, 203.0, [196, 198, 200, 202])],
)
def test_ticks_are_round(least: float, most: float, expected: list[float]) -> None:
    assert ticks(least, most) == pytest.approx(expected)


def test_the_drawing_has_ttft_itl_and_latency() -> None:
    report = reported(*(answered(100.0, 0.1 * number, 3.0, 11) for number in range(1, 9)))
    drawing = svg(report)
    texts = [node.text or "" for node in ElementTree.fromstring(drawing).iter() if node.text]
    titles = [text for text in texts if "values" in text]
    assert [title.partition(",")[0] for title in titles] == [
        "Time to first token", "Inter-token latency", "Request latency",
    ]  # fmt: skip
    assert "8 values" in titles[0]


def test_without_an_answer_it_is_empty_and_well_formed() -> None:
    assert ElementTree.fromstring(svg(reported(sent=1))).tag.endswith("svg")
