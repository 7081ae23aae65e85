"""Each figure is what its definition says of simulated moments, and nothing is left out unsaid."""

from __future__ import annotations

from array import array
from typing import cast

import pytest

from reverie.load.answers import Failure, Outcome
from reverie.load.client import Client
from reverie.load.figures import Distribution, Report, percentile, report
from reverie.load.run import Load, Plan


def answered(started: float, ttft: float, latency: float, tokens: int) -> Outcome:
    return Outcome(
        started=started,
        first=started + ttft,
        last=started + latency,
        prompt_tokens=10,
        tokens=tokens,
        gaps=array("d", [(latency - ttft) / (tokens - 1)] * (tokens - 1)),
    )


def reported(*outcomes: Outcome, sent: int | None = None, lag: tuple[float, ...] = ()) -> Report:
    load = Load(cast("Client", None), Plan(), iter(()))
    load.outcomes += outcomes
    load.sent = len(outcomes) if sent is None else sent
    load.lag = array("d", lag)
    return report(load)


def test_percentiles_lie_between_values_as_numpys_do() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(values, percent) for percent in (0, 50, 90, 100)] == [
        1.0, 2.5, pytest.approx(3.7), 4.0,
    ]  # fmt: skip
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_figures_are_those_of_their_definitions() -> None:
    found = reported(answered(100.0, 0.2, 1.2, 11), answered(101.0, 0.4, 3.0, 14))
    assert found.seconds == pytest.approx(4.0)  # 100 to 104
    assert found.requests_per_second == pytest.approx(0.5)
    assert found.tokens_per_second == pytest.approx(25 / 4)
    assert found.all_tokens_per_second == pytest.approx(45 / 4)
    assert found.figures["ttft_ms"].values == pytest.approx([200, 400])
    assert found.figures["itl_ms"].values == pytest.approx([100, 200])
    assert found.figures["request_latency_ms"].values == pytest.approx([1200, 3000])
    assert found.figures["output_tokens_per_second_per_user"].values == pytest.approx([5, 10])
    assert len(found.figures["inter_chunk_ms"].values) == 23


def test_what_failed_is_counted_by_its_name_and_in_no_figure() -> None:
    broken = [Outcome(started=1.0, failure=Failure("status 429", text)) for text in ("One.", "2.")]
    other = Outcome(started=1.0, failure=Failure("the connection broke"))
    found = reported(other, *broken, answered(100.0, 0.2, 1.2, 11), sent=6)
    assert (found.answered, found.failed, found.unfinished) == (1, 3, 2)
    assert found.failures == {("status 429", "One."): 2, ("the connection broke", ""): 1}
    assert found.seconds == pytest.approx(1.2)
    assert found.to_json()["requests"] == {
        "sent": 6, "answered": 1, "failed": 3, "unfinished": 2,
    }  # fmt: skip


def test_percentiles_are_in_order() -> None:
    spread = Distribution.of([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    assert spread is not None
    found = spread.to_json()
    names = ("min", "p50", "p75", "p90", "p95", "p99", "max")
    assert [found[name] for name in names] == sorted(found[name] for name in names)
    assert (found["count"], found["mean"]) == (7, pytest.approx(25 / 7))


def test_a_machine_that_was_too_busy_is_told() -> None:
    one = answered(100.0, 0.2, 1.2, 11)
    assert reported(one, lag=(0.001,) * 100).warnings == []
    [said] = reported(one, lag=(0.02,) * 100).warnings
    assert said.startswith("this machine was too busy, the figures are too high")


def test_tokens_that_the_server_did_not_count_are_told() -> None:
    one = answered(100.0, 0.2, 1.2, 11)
    one.counted_here = True
    [said] = reported(one).warnings
    assert "didn't count the tokens of 1 answers" in said


def test_nothing_answered_has_no_figures() -> None:
    found = reported(sent=3)
    assert (found.figures, found.seconds, found.requests_per_second) == ({}, 0.0, 0.0)
    assert found.to_json()["requests"]["unfinished"] == 3
