"""The metrics of several processes that serve as one: counters, histograms and counts are sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_RULES: dict[str, Callable[[Sequence[float]], float]] = {
    # What all have alike.
    "reverie_slots": max,
    # Up only if it is for all of them, so that an alert tells of the first that has trouble.
    "reverie_backend_ready": min,
    "reverie_backend_probe_ok": min,
    "reverie_model_backends_up": min,
    "reverie_store_up": min,
    # Each has a circuit breaker of its own: every state that one of them sees is shown.
    "reverie_backend_state": max,
    "reverie_backend_state_reason": max,
    "reverie_backend_consecutive_failures": max,
    "reverie_backend_time_to_first_token_seconds": _mean,
    "reverie_backend_seconds_per_token": _mean,
}
"""How a metric's values become one, where it isn't their sum."""


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
            rule = _RULES.get(name, sum)
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
