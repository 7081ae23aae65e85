"""Counters and histograms say what Prometheus' own would say."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from reverie.gateway.metric_names import Definition
from reverie.gateway.tallies import Histogram, Tally

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

BOUNDS = (0.005, 1, 2.5)
ASKED = Definition("asked_total", "counter", "", "Asked.", ("model", "status"))
TOOK = Definition("took", "histogram", "", "Took.", ("model", "kind"), buckets=BOUNDS)


def rendered(collector: Collector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_a_tally_is_written_as_a_counter() -> None:
    theirs = prometheus_client.Counter("asked", "Asked.", ["model", "status"], registry=None)
    ours = Tally(ASKED)
    assert rendered(ours) == rendered(theirs)
    theirs.labels("b", "502")
    ours.expect("b", "502")
    for model, count in (("a", 1), ("b", 7), ("a", 2)):
        theirs.labels(model, "200").inc(count)
        ours.add(model, "200", count=count)
    ours.expect("a", "200")  # what was counted stays
    assert rendered(ours) == rendered(theirs)


def test_a_tally_of_small_units_is_told_in_large_ones() -> None:
    ours = Tally(ASKED, scale=10**9)
    ours.add("a", "USD", count=180_000)
    assert 'asked_total{model="a",status="USD"} 0.00018' in rendered(ours)


def test_a_histogram_is_written_as_a_histogram() -> None:
    theirs = prometheus_client.Histogram(
        "took", "Took.", ["model", "kind"], buckets=BOUNDS, registry=None
    )
    ours = Histogram(TOOK)
    assert rendered(ours) == rendered(theirs)
    for value in (0, 0.005, 0.006, 1, 2.5, 3, 1e9):
        theirs.labels("a", "x").observe(value)
        ours.observe(value, "a", "x")
    for value in (0.5, 0.5, 0.5, 3):
        theirs.labels("b", "x").observe(value)
    ours.add([0, 3, 0, 1], 4.5, "b", "x")
    assert rendered(ours) == rendered(theirs)


def test_a_histogram_without_labels_is_there_before_anything_was_measured() -> None:
    theirs = prometheus_client.Histogram("took", "Took.", buckets=BOUNDS, registry=None)
    ours = Histogram(TOOK._replace(labels=()))
    assert rendered(ours) == rendered(theirs)
    theirs.observe(2)
    ours.observe(2)
    assert rendered(ours) == rendered(theirs)
