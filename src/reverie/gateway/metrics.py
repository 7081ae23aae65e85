"""Prometheus metrics. Labels are bounded: models of the configuration, never a client's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.backend_state import Circuit
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.registry import ModelRegistry

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_NO_MODEL = "none"
"""The label of a request that was refused before its model was known."""


prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All of one server's metrics, in a registry of their own."""

    def __init__(self, registry: ModelRegistry, ledger: Ledger | None = None) -> None:
        self._collectors = CollectorRegistry()
        self._requests = Counter(
            "reverie_requests",
            "Requests, by how they ended.",
            ["model", "status", "outcome"],
            registry=self._collectors,
        )
        self._tokens = Counter(
            "reverie_tokens",
            "Tokens, as the engines counted them.",
            ["model", "direction"],
            registry=self._collectors,
        )
        self._failovers = Counter(
            "reverie_failovers",
            "Answers that a backend broke off: continued on another, or impossible to continue.",
            ["model", "outcome"],
            registry=self._collectors,
        )
        self._ttft = Histogram(
            "reverie_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            ["model"],
            buckets=_TTFT_BUCKETS,
            registry=self._collectors,
        )
        self._duration = Histogram(
            "reverie_request_duration_seconds",
            "From a request's arrival to its end.",
            ["model"],
            buckets=_DURATION_BUCKETS,
            registry=self._collectors,
        )
        self._collectors.register(_LiveState(registry))
        if ledger is not None:
            self._collectors.register(_LedgerState(ledger))

    def observe(self, record: RequestRecord) -> None:
        """Count one request that has ended."""
        model = record.model or _NO_MODEL
        self._requests.labels(model, str(record.status), record.outcome).inc()
        if record.model is not None:
            self._duration.labels(model).observe(record.duration)
        self.observe_generation(record)

    def observe_generation(self, record: RequestRecord) -> None:
        """Count what one generation used, whoever asked for it."""
        model = record.model or _NO_MODEL
        if record.prompt_tokens is not None:
            self._tokens.labels(model, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens is not None:
            self._tokens.labels(model, "completion").inc(record.completion_tokens)
        if record.failovers:
            self._failovers.labels(model, "continued").inc(record.failovers)
        if record.cut_for_good:
            self._failovers.labels(model, "impossible").inc()
        if (ttft := record.time_to_first_token) is not None:
            self._ttft.labels(model).observe(ttft)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._collectors)


class _LiveState(Collector):
    """What is true now, read when asked: queues, slots, backends."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "reverie_queue_length", "Requests that wait for a slot.", labels=["model"]
        )
        running = GaugeMetricFamily(
            "reverie_in_flight", "Requests on a backend.", labels=["model", "backend"]
        )
        slots = GaugeMetricFamily(
            "reverie_slots", "Requests that a backend runs at once.", labels=["model", "backend"]
        )
        ready = GaugeMetricFamily(
            "reverie_backend_ready", "1 if a backend takes requests.", labels=["model", "backend"]
        )
        for model in self._registry.models.all:
            pool = model.pool
            waiting.add_metric([model.name], pool.waiting)
            for backend in pool.backends:
                labels = [model.name, backend.name]
                running.add_metric(labels, pool.in_flight_on(backend))
                slots.add_metric(labels, backend.slots)
                ready.add_metric(labels, int(backend.ready))
        pools = [model.pool for model in self._registry.models.all]
        return (waiting, running, slots, ready, *_health_of_backends(pools))


def _health_of_backends(pools: Iterable[Pool]) -> Iterable[Metric]:
    """How well backends do. What isn't known yet is absent."""
    labels = ["model", "backend"]
    circuit = GaugeMetricFamily(
        "reverie_backend_state",
        "1 for the state of a backend's circuit breaker.",
        labels=[*labels, "state"],
    )
    reason = GaugeMetricFamily(
        "reverie_backend_state_reason", "1 for the reason of it.", labels=[*labels, "reason"]
    )
    failures = GaugeMetricFamily(
        "reverie_backend_consecutive_failures",
        "Failures since the last whole answer.",
        labels=labels,
    )
    probe = GaugeMetricFamily(
        "reverie_backend_probe_ok", "1 if the latest probe was answered.", labels=labels
    )
    ttft = GaugeMetricFamily(
        "reverie_backend_time_to_first_token_seconds",
        "From a slot's grant to the first token, as a moving average.",
        labels=labels,
    )
    pace = GaugeMetricFamily(
        "reverie_backend_seconds_per_token",
        "From one token to the next, as a moving average.",
        labels=labels,
    )
    for pool in pools:
        for state in pool.states:
            values = [pool.model, state.name]
            for one in get_args(Circuit):
                circuit.add_metric([*values, one], int(state.circuit == one))
            if state.reason is not None:
                reason.add_metric([*values, state.reason], 1)
            failures.add_metric(values, state.failures)
            if state.backend.health is not None:
                probe.add_metric(values, int(state.backend.health.good))
            if state.speed.ttft is not None:
                ttft.add_metric(values, state.speed.ttft)
            if state.speed.per_token is not None:
                pace.add_metric(values, state.speed.per_token)
    return (circuit, reason, failures, probe, ttft, pace)


class _LedgerState(Collector):
    """How the store of accounts fares."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        return (
            GaugeMetricFamily(
                "reverie_store_up",
                "1 if the store took what it was last given.",
                value=int(self._ledger.healthy),
            ),
            GaugeMetricFamily(
                "reverie_journal_entries",
                "Settlements kept here until the store takes them.",
                value=self._ledger.journalled,
            ),
            GaugeMetricFamily(
                "reverie_ledger_open_rows",
                "Requests of this gateway that are reserved and not settled.",
                value=self._ledger.open,
            ),
        )
