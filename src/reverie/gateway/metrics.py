"""Prometheus metrics: what requests came to is counted here, and what is true now is read."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

import reverie
from reverie import background
from reverie.gateway import metric_names as names
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.cluster_metrics import ClusterMetrics
from reverie.gateway.disk_metrics import DiskMetrics
from reverie.gateway.gen_ai import PROVIDER, operation_of
from reverie.gateway.live import Live
from reverie.gateway.metric_names import Definition
from reverie.gateway.record import CancelledBy, RequestRecord
from reverie.gateway.scheduling.backend_state import BackendState, Circuit
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModel, State
from reverie.gateway.tallies import Histogram, Tally, gauge, value_of

_NO_MODEL = "none"
"""The label of a request that was refused before its model was known."""

_OF_BACKENDS: tuple[tuple[Definition, Callable[[BackendState], float | None]], ...] = (
    (names.IN_FLIGHT, lambda state: state.in_flight),
    (names.SLOTS, lambda state: state.backend.slots),
    (names.READY, lambda state: state.backend.ready and not state.draining),
    (names.FAILURES, lambda state: state.failures),
    (
        names.PROBE_OK,
        lambda state: None if state.backend.health is None else state.backend.health.ok,
    ),
    (names.BACKEND_TTFT, lambda state: state.speed.ttft),
    (names.BACKEND_PER_TOKEN, lambda state: state.speed.per_token),
)
_FAILURES = ("502", "503", "504")
"""Statuses with which requests fail that are the server's or a backend's fault."""


class Metrics:
    """All of one server's metrics, in a registry of their own."""

    def __init__(
        self, registry: ModelRegistry, ledger: Ledger | None = None, store: Path | None = None
    ) -> None:
        """``store``: as in ``DiskMetrics``."""
        self.live = Live()
        self._registry = registry
        self._counted: list[Collector] = []
        """What is read in any thread."""
        self._requests = self._counter(names.REQUESTS)
        self._cancellations = self._counter(names.CANCELLATIONS)
        self._replays = self._counter(names.REPLAYS)
        self._failovers = self._counter(names.FAILOVERS)
        self._retries = self._counter(names.RETRIES)
        self._tokens = self._counter(names.TOKENS)
        self._cached = self._counter(names.CACHED_TOKENS)
        self._duration = self._histogram(names.DURATION)
        self._ttft = self._histogram(names.TTFT)
        self._inter_token = self._histogram(names.INTER_TOKEN)
        self._queue_wait = self._histogram(names.QUEUE_WAIT)
        self._gen_ai_duration = self._histogram(names.GEN_AI_DURATION)
        self._gen_ai_ttft = self._histogram(names.GEN_AI_TTFT)
        self._gen_ai_per_token = self._histogram(names.GEN_AI_PER_TOKEN)
        self._disk = DiskMetrics(store)
        self._now: list[Collector] = [
            self._disk,
            _LiveState(registry),
            _Process(),
            ClusterMetrics(lambda: registry.cluster),
        ]
        """What is read in the event loop, whose state it tells."""
        self._counted.append(ProcessCollector(registry=None))
        if ledger is not None:
            self._counted += [ledger.cost, ledger.commits]
            self._now.append(_LedgerState(ledger))

    def add(self, *collectors: Collector) -> None:
        """Render these, too."""
        self._counted += collectors

    def _counter(self, definition: Definition) -> Tally:
        tally = Tally(definition)
        self._counted.append(tally)
        return tally

    def _histogram(self, definition: Definition) -> Histogram:
        histogram = Histogram(definition)
        self._counted.append(histogram)
        return histogram

    def began(self, record: RequestRecord) -> None:
        """Note a request that runs now."""
        self.live.began(record)

    def observe(self, record: RequestRecord) -> None:
        """Count one request that has ended."""
        model = record.model or _NO_MODEL
        self._requests.add(model, str(record.status), record.outcome)
        if record.cancelled_by is not None:
            self._cancellations.add(model, record.cancelled_by)
        if record.replayed:
            self._replays.add(model, "joined" if record.joined else "stored")
        if record.model is not None:
            duration = record.duration
            self._duration.observe(duration, model)
            if (operation := operation_of(record.route)) is not None:
                error = record.error or ""
                self._gen_ai_duration.observe(duration, operation, PROVIDER, model, error)
        self.observe_generation(record)

    def observe_generation(self, record: RequestRecord) -> None:
        """Count what one generation used, whoever asked for it."""
        self.live.ended(record)
        model = record.model or _NO_MODEL
        if record.prompt_tokens is not None:
            self._tokens.add(model, "prompt", count=record.prompt_tokens)
            if record.cached_tokens:
                self._cached.add(model, count=record.cached_tokens)
        completion = record.completion_tokens
        if completion is None:
            completion = record.pieces
        if completion:
            self._tokens.add(model, "completion", count=completion)
        if record.failovers:
            self._failovers.add(model, "continued", count=record.failovers)
        if record.cut_for_good:
            self._failovers.add(model, "impossible")
        if record.retries:
            self._retries.add(model, count=record.retries)
        wait = record.queue_wait
        gave_up = record.queue_timed_out or record.cancelled_by is not None
        if wait is not None and (record.granted is not None or gave_up):
            self._queue_wait.observe(wait, model)
        if (ttft := record.time_to_first_token) is not None and record.pieces:
            self._observe_answer(record, model, ttft, completion)

    def _observe_answer(
        self, record: RequestRecord, model: str, ttft: float, completion: int
    ) -> None:
        """Count how fast an answer came, of which there is a part at least."""
        self._ttft.observe(ttft, model)
        self._inter_token.add(record.gaps, record.gap_seconds, model)
        if record.outcome in ("ok", "length"):
            labels = operation_of(record.route) or "chat", PROVIDER, model
            self._gen_ai_ttft.observe(ttft, *labels)
            if completion > 1:
                rest = (record.duration - ttft) / (completion - 1)
                self._gen_ai_per_token.observe(rest, *labels)

    async def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        await self._disk.measure()
        for model in self._registry.models.all:
            self._expect(model.name)
        now = _Page([family for one in self._now for family in one.collect()], self._counted)
        return await asyncio.to_thread(generate_latest, now)  # a millisecond for each model

    def _expect(self, model: str) -> None:
        """Tell what may happen to a model's requests before it does."""
        self._requests.expect(model, "200", "ok")
        for status in _FAILURES:
            self._requests.expect(model, status, "failed")
        for by in get_args(CancelledBy):
            self._cancellations.expect(model, by)
        for kind in ("stored", "joined"):
            self._replays.expect(model, kind)
        for outcome in ("continued", "impossible"):
            self._failovers.expect(model, outcome)
        self._retries.expect(model)
        for direction in ("prompt", "completion"):
            self._tokens.expect(model, direction)
        self._cached.expect(model)


class _Page(Collector):
    """All that is told: families that were read, and collectors to read when it is written."""

    def __init__(self, families: Sequence[Metric], collectors: Sequence[Collector]) -> None:
        self._families = families
        self._collectors = collectors

    def collect(self) -> Iterable[Metric]:
        yield from self._families
        for collector in self._collectors:
            yield from collector.collect()


class _Process(Collector):
    """This program, and its background work."""

    def collect(self) -> Iterable[Metric]:
        build = gauge(names.BUILD)
        build.add_metric([reverie.__version__, platform.python_version()], 1)
        failures = CounterMetricFamily(
            names.BACKGROUND.family, names.BACKGROUND.meaning, labels=names.BACKGROUND.labels
        )
        for name, count in sorted(background.FAILURES.items()):
            failures.add_metric([name], count)
        yield from (build, failures)


class _LiveState(Collector):
    """What is true now, read when asked: queues, slots, backends. What isn't known is absent."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        models = self._registry.models.all
        yield from _of_models(models)
        pools = [model.pool for model in models]
        circuit, reason = gauge(names.STATE), gauge(names.STATE_REASON)
        for pool in pools:
            for state in pool.states:
                for one in get_args(Circuit):
                    circuit.add_metric([pool.model, state.name, one], int(state.circuit == one))
                if state.reason is not None:
                    reason.add_metric([pool.model, state.name, state.reason], 1)
        yield from (circuit, reason)
        for definition, value in _OF_BACKENDS:
            family = gauge(definition)
            for pool in pools:
                for state in pool.states:
                    if (found := value(state)) is not None:
                        family.add_metric([pool.model, state.name], found)
            yield family


def _of_models(models: Iterable[ServedModel]) -> Iterable[Metric]:
    waiting, limit = gauge(names.QUEUE_LENGTH), gauge(names.QUEUE_LIMIT)
    reachable, states = gauge(names.BACKENDS_UP), gauge(names.MODEL_STATE)
    for model in models:
        pool = model.pool
        up = sum(state.backend.ready and not state.down for state in pool.states)
        reachable.add_metric([model.name], up)
        waiting.add_metric([model.name], pool.waiting)
        limit.add_metric([model.name], pool.queue_size)
        for one in get_args(State):
            states.add_metric([model.name, one], int(model.state == one))
    return waiting, limit, reachable, states


class _LedgerState(Collector):
    """How the store of accounts fares."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        ledger = self._ledger
        return (
            value_of(names.STORE_UP, int(ledger.healthy)),
            value_of(names.LEDGER_LAG, ledger.lag),
            value_of(names.JOURNAL, ledger.journalled),
            value_of(names.OPEN_ROWS, ledger.open),
        )
