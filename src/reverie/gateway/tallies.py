"""Counters and histograms that cost a request next to nothing, in Prometheus' form when asked.

They are written in the event loop alone, so that they need no lock. Prometheus' own have one, and
cost several times as much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally(Collector):
    """A number for each set of labels, which only grows."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._about = name, documentation
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Count one more, or more than one."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``, which may be called in any thread."""
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class Histogram(Collector):
    """How measurements are distributed, for each value of one label."""

    def __init__(self, name: str, documentation: str, label: str, bounds: Sequence[float]) -> None:
        self._about = name, documentation
        self._label = label
        self._bounds = bounds
        self._names = [*map(floatToGoString, map(float, bounds)), "+Inf"]
        self._counts: dict[str, list[int]] = {}  # in each bucket alone
        self._sums: dict[str, float] = {}

    def observe(self, label: str, value: float) -> None:
        """Add a measurement. One that is a bucket's bound is within it."""
        counts = self._counts.get(label)
        if counts is None:
            self._sums[label] = 0.0
            counts = self._counts[label] = [0] * len(self._names)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[label] += value

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``, which may be called in any thread."""
        family = HistogramMetricFamily(*self._about, labels=[self._label])
        for label, counts in list(self._counts.items()):
            buckets = [
                (name, float(count))
                for name, count in zip(self._names, accumulate(counts), strict=True)
            ]
            family.add_metric([label], buckets, self._sums[label])
        yield family
