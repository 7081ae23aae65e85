"""How each backend stands, for the operator: as JSON, and as gauges for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.pool import Pool

_STATES = ("closed", "open", "half_open")
_LABELS = ["model", "backend"]


def told(pool: Pool) -> list[dict[str, Any]]:
    """A model's backends, in their order. No secret, no prompt and no engine's text is in it."""
    return [_told(pool, member) for member in pool.members]


def _told(pool: Pool, member: BackendState) -> dict[str, Any]:
    backend, breaker, speed = member.backend, member.breaker, member.speed
    error, health = member.last_error, backend.health
    return {
        "model": pool.model,
        "name": member.name,
        "kind": backend.kind,
        "url": backend.url or None,
        "state": breaker.state,
        "retry_in": round(breaker.retry_in, 1),
        "ready": backend.ready,
        "slots": backend.slots,
        "in_flight": member.in_flight,
        "weight": backend.weight,
        "tokens_per_second": _rate(speed.per_token),
        "time_to_first_token": None if speed.ttft is None else round(speed.ttft, 4),
        "consecutive_failures": breaker.failures,
        "last_error": None
        if error is None
        else {"code": error.code, "at": _moment(time.time() - (pool.clock() - error.at))},
        "last_probe": None
        if health is None
        else {"ok": health.ok, "code": health.error_code or None, "at": _moment(health.checked_at)},
    }


def _rate(per_token: float | None) -> float | None:
    return None if not per_token else round(1 / per_token, 1)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def gauges(pools: Iterable[Pool]) -> Iterable[Metric]:
    """What of the same is a number. A speed that isn't known yet is absent."""
    state = GaugeMetricFamily(
        "reverie_backend_state",
        "1 for the state of a backend's breaker.",
        labels=[*_LABELS, "state"],
    )
    failures = GaugeMetricFamily(
        "reverie_backend_consecutive_failures", "Failures since the last success.", labels=_LABELS
    )
    probe = GaugeMetricFamily(
        "reverie_backend_probe_ok", "1 if the latest probe was answered.", labels=_LABELS
    )
    ttft = GaugeMetricFamily(
        "reverie_backend_time_to_first_token_seconds",
        "From a slot's grant to the first token, as a moving average.",
        labels=_LABELS,
    )
    pace = GaugeMetricFamily(
        "reverie_backend_seconds_per_token",
        "From one token to the next, as a moving average.",
        labels=_LABELS,
    )
    for pool in pools:
        for member in pool.members:
            labels = [pool.model, member.name]
            for one in _STATES:
                state.add_metric([*labels, one], int(member.breaker.state == one))
            failures.add_metric(labels, member.breaker.failures)
            if member.backend.health is not None:
                probe.add_metric(labels, int(member.backend.health.ok))
            if member.speed.ttft is not None:
                ttft.add_metric(labels, member.speed.ttft)
            if member.speed.per_token is not None:
                pace.add_metric(labels, member.speed.per_token)
    return (state, failures, probe, ttft, pace)
