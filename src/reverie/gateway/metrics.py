"""Prometheus metrics. Labels are bounded: models of the configuration, never a client's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reverie import background
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.cluster_metrics import ClusterMetrics
from reverie.gateway.live import Live
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.backend_state import BackendState, Circuit
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.tallies import Histogram, Tally

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_NO_MODEL = "none"
"""The label of a request that was refused before its model was known."""

_OF_BACKENDS: tuple[tuple[str, str, Callable[[BackendState], float | None]], ...] = (
    ("reverie_in_flight", "Requests on a backend.", lambda state: state.in_flight),
    ("reverie_slots", "Requests that a backend runs at once.", lambda state: state.backend.slots),
    (
        "reverie_backend_ready",
        "1 if a backend takes requests.",
        lambda state: state.backend.ready and not state.draining,
    ),
    (
        "reverie_backend_consecutive_failures",
        "Failures since the last whole answer.",
        lambda state: state.failures,
    ),
    (
        "reverie_backend_probe_ok",
        "1 if the latest probe was answered.",
        lambda state: None if state.backend.health is None else state.backend.health.ok,
    ),
    (
        "reverie_backend_time_to_first_token_seconds",
        "From a slot's grant to the first token, as a moving average.",
        lambda state: state.speed.ttft,
    ),
    (
        "reverie_backend_seconds_per_token",
        "From one token to the next, as a moving average.",
        lambda state: state.speed.per_token,
    ),
)


class Metrics:
    """All of one server's metrics, in a registry of their own."""

    def __init__(self, registry: ModelRegistry, ledger: Ledger | None = None) -> None:
        self.live = Live()
        self._collectors = CollectorRegistry()
        self._requests = Tally(
            "reverie_requests",
            "Requests, by how they ended.",
            ["model", "status", "outcome"],
        )
        self._tokens = Tally(
            "reverie_tokens",
            "Tokens, as the engines counted them.",
            ["model", "direction"],
        )
        self._failovers = Tally(
            "reverie_failovers",
            "Answers that a backend broke off: continued on another, or impossible to continue.",
            ["model", "outcome"],
        )
        self._ttft = Histogram(
            "reverie_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            "model",
            _TTFT_BUCKETS,
        )
        self._duration = Histogram(
            "reverie_request_duration_seconds",
            "From a request's arrival to its end.",
            "model",
            _DURATION_BUCKETS,
        )
        tallies = self._requests, self._tokens, self._failovers, self._ttft, self._duration
        for tally in tallies:
            self._collectors.register(tally)
        self._collectors.register(_LiveState(registry))
        self._collectors.register(_Background())
        self._collectors.register(ClusterMetrics(lambda: registry.cluster))
        if ledger is not None:
            self._collectors.register(_LedgerState(ledger))

    def add(self, *collectors: Collector) -> None:
        """Render these, too."""
        for collector in collectors:
            self._collectors.register(collector)

    def began(self, record: RequestRecord) -> None:
        """Note a request that runs now."""
        self.live.began(record)

    def observe(self, record: RequestRecord) -> None:
        """Count one request that has ended."""
        model = record.model or _NO_MODEL
        self._requests.add(model, str(record.status), record.outcome)
        if record.model is not None:
            self._duration.observe(model, record.duration)
        self.observe_generation(record)

    def observe_generation(self, record: RequestRecord) -> None:
        """Count what one generation used, whoever asked for it."""
        self.live.ended(record)
        model = record.model or _NO_MODEL
        if record.prompt_tokens is not None:
            self._tokens.add(model, "prompt", count=record.prompt_tokens)
        if record.completion_tokens is not None:
            self._tokens.add(model, "completion", count=record.completion_tokens)
        if record.failovers:
            self._failovers.add(model, "continued", count=record.failovers)
        if record.cut_for_good:
            self._failovers.add(model, "impossible")
        if (ttft := record.time_to_first_token) is not None:
            self._ttft.observe(model, ttft)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._collectors)


class _Background(Collector):
    def collect(self) -> Iterable[Metric]:
        failures = CounterMetricFamily(
            "reverie_background_failures",
            "Failures of work that no request waits for.",
            labels=["task"],
        )
        for name, count in sorted(background.FAILURES.items()):
            failures.add_metric([name], count)
        yield failures


class _LiveState(Collector):
    """What is true now, read when asked: queues, slots, backends. What isn't known is absent."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        pools = [model.pool for model in self._registry.models.all]
        waiting = GaugeMetricFamily(
            "reverie_queue_length", "Requests that wait for a slot.", labels=["model"]
        )
        circuit = GaugeMetricFamily(
            "reverie_backend_state",
            "1 for the state of a backend's circuit breaker.",
            labels=["model", "backend", "state"],
        )
        reason = GaugeMetricFamily(
            "reverie_backend_state_reason",
            "1 for the reason of a backend's state.",
            labels=["model", "backend", "reason"],
        )
        reachable = GaugeMetricFamily(
            "reverie_model_backends_up",
            "Backends that are ready and whose latest probe didn't fail.",
            labels=["model"],
        )
        for pool in pools:
            up = sum(state.backend.ready and not state.down for state in pool.states)
            reachable.add_metric([pool.model], up)
            waiting.add_metric([pool.model], pool.waiting)
            for state in pool.states:
                for one in get_args(Circuit):
                    circuit.add_metric([pool.model, state.name, one], int(state.circuit == one))
                if state.reason is not None:
                    reason.add_metric([pool.model, state.name, state.reason], 1)
        yield from (waiting, reachable, circuit, reason)
        for name, documentation, value_of in _OF_BACKENDS:
            gauge = GaugeMetricFamily(name, documentation, labels=["model", "backend"])
            for pool in pools:
                for state in pool.states:
                    if (value := value_of(state)) is not None:
                        gauge.add_metric([pool.model, state.name], value)
            yield gauge


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
