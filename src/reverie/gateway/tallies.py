"""Counters and histograms that cost a request next to nothing, in Prometheus' form when asked.

Each is written in one thread alone, so that it needs no lock. Prometheus' own have one, and cost
several times as much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from reverie.gateway.metric_names import Definition


class Tally(Collector):
    """A number for each set of labels, which only grows.

    Args:
        scale: how many that are counted are one of the metric.
    """

    def __init__(self, definition: Definition, scale: int = 1) -> None:
        self._definition = definition
        self._scale = scale
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Count one more, or more than one."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def expect(self, *labels: str) -> None:
        """Tell these from now on, also while there are none: Prometheus doesn't see an increase
        where a number appears for the first time."""
        self._counts.setdefault(labels, 0)

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``, which may be called in any thread."""
        about = self._definition
        family = CounterMetricFamily(about.family, about.meaning, labels=about.labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count / self._scale)
        yield family


class Histogram(Collector):
    """How measurements are distributed, for each set of labels."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._bounds = definition.buckets
        self._names = [*map(floatToGoString, map(float, self._bounds)), "+Inf"]
        self._counts: dict[tuple[str, ...], list[int]] = {}  # in each bucket alone
        self._sums: dict[tuple[str, ...], float] = {}
        if not definition.labels:
            self._of(())

    def observe(self, value: float, *labels: str) -> None:
        """Add a measurement. One that is a bucket's bound is within it."""
        counts = self._counts.get(labels) or self._of(labels)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def add(self, counted: Sequence[int], total: float, *labels: str) -> None:
        """Add measurements that were counted by their buckets, and their sum."""
        counts = self._counts.get(labels) or self._of(labels)
        for index, count in enumerate(counted):
            if count:
                counts[index] += count
        self._sums[labels] += total

    def _of(self, labels: tuple[str, ...]) -> list[int]:
        self._sums[labels] = 0.0
        counts = self._counts[labels] = [0] * len(self._names)
        return counts

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``, which may be called in any thread."""
        about = self._definition
        family = HistogramMetricFamily(about.family, about.meaning, labels=about.labels)
        for labels, counts in list(self._counts.items()):
            buckets = [
                (name, float(count))
                for name, count in zip(self._names, accumulate(counts), strict=True)
            ]
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


def gauge(definition: Definition) -> GaugeMetricFamily:
    """A gauge of the table, without its values."""
    return GaugeMetricFamily(definition.family, definition.meaning, labels=definition.labels)


def value_of(definition: Definition, value: float) -> GaugeMetricFamily:
    """A gauge of the table that has no labels."""
    return GaugeMetricFamily(definition.family, definition.meaning, value=value)
