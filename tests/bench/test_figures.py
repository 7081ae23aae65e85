"""Medians, ratios and the table are those of the values, and nobody is left out in silence."""

import pytest
from figures import REVERIE, Figures, number
from plot import drawn, svg


@pytest.fixture
def figures() -> Figures:
    figures = Figures()
    figures.add("a", "CPU of an answer", "µs", "nginx", [10, 30, 20])
    figures.add("a", "CPU of an answer", "µs", REVERIE, [100, 150, 400], "busy")
    figures.add("b", "CPU of a stream", "µs", REVERIE, [7])
    figures.missing["LiteLLM"] = "can't be installed: no network"
    return figures


def test_ratios_are_taken_round_by_round(figures: Figures) -> None:
    nginx, reverie, _ = figures.all
    assert figures.ratio(nginx) == pytest.approx(0.1)  # the median of 0.1, 0.2 and 0.05
    assert figures.ratio(reverie) is None


def test_with_other_rounds_the_medians_are_divided(figures: Figures) -> None:
    figures.add("a", "CPU of an answer", "µs", "relay", [75])
    assert figures.ratio(figures.all[-1]) == pytest.approx(0.5)


def test_the_table_has_each_figure_and_each_that_is_missing(figures: Figures) -> None:
    assert figures.rows() == [
        ("a) CPU of an answer, µs", "nginx", "20.0", "10.0 – 30.0", "0.10", ""),
        ("", REVERIE, "150", "100 – 400", "", "busy"),
        ("b) CPU of a stream, µs", REVERIE, "7.00", "7.00 – 7.00", "", ""),
        ("not measured", "LiteLLM", "", "", "", "can't be installed: no network"),
    ]
    assert figures.markdown() == (
        "| (a) | nginx | Reverie |\n| --- | --- | --- |\n"
        "| CPU of an answer, µs | 20.0 (10.0–30.0) × 0.10 | 150 (100–400) |\n\n"
        "| (b) | Reverie |\n| --- | --- |\n| CPU of a stream, µs | 7.00 |\n\n"
        "- not measured: LiteLLM: can't be installed: no network\n"
    )
    assert figures.table().row_count == 4


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0, 0.123, 12.34, 1234.5)] == ["0", "0.12", "12.3", "1,234"]


def test_the_plot_shows_what_several_were_measured_in(figures: Figures) -> None:
    groups = drawn(figures.all)
    assert [[figure.of for figure in group] for group in groups] == [["nginx", REVERIE]]
    drawing = svg(groups)
    assert drawing.count("<rect") == 2
    assert ">150<" in drawing
    assert 'class="ours"' in drawing
