"""The metrics of several processes that serve as one: counters, histograms and counts are sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from reverie.gateway.metric_names import TABLE, Merge


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_MERGE: dict[Merge, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "mean": _mean,
}
_RULES = {one.family: _MERGE[one.merge] for one in TABLE.values()}


class _Merged(Collector):
    def __init__(self, texts: Iterable[bytes]) -> None:
        self._families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
        for text in texts:
            for family in text_string_to_metric_families(text.decode()):
                self._families.setdefault(family.name, family)
                of_family = values.setdefault(family.name, {})
                for sample in family.samples:
                    key = sample.name, tuple(sample.labels.items())
                    of_family.setdefault(key, []).append(sample.value)
        for name, family in self._families.items():
            rule = _RULES[name]
            family.samples = [
                Sample(sample, dict(labels), rule(found))
                for (sample, labels), found in values[name].items()
            ]

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def merged(texts: Sequence[bytes]) -> bytes:
    """One page of metrics of several, in Prometheus' text format."""
    if len(texts) == 1:
        return texts[0]
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)
