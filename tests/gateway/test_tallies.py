"""Counters and histograms say what Prometheus' own would say."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from reverie.gateway.tallies import Histogram, Tally

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

BOUNDS = (0.005, 1, 2.5)


def rendered(collector: Collector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_a_tally_is_written_as_a_counter() -> None:
    theirs = prometheus_client.Counter("asked", "Asked.", ["model", "status"], registry=None)
    ours = Tally("asked", "Asked.", ["model", "status"])
    assert rendered(ours) == rendered(theirs)
    for model, count in (("a", 1), ("b", 7), ("a", 2)):
        theirs.labels(model, "200").inc(count)
        ours.add(model, "200", count=count)
    assert rendered(ours) == rendered(theirs)


def test_a_histogram_is_written_as_a_histogram() -> None:
    theirs = prometheus_client.Histogram("took", "Took.", ["model"], buckets=BOUNDS, registry=None)
    ours = Histogram("took", "Took.", "model", BOUNDS)
    assert rendered(ours) == rendered(theirs)
    for value in (0, 0.005, 0.006, 1, 2.5, 3, 1e9):
        theirs.labels("a").observe(value)
        ours.observe("a", value)
    theirs.labels("b").observe(0.5)
    ours.observe("b", 0.5)
    assert rendered(ours) == rendered(theirs)
