"""A backend as its operator sees it, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.pool import Pool
from reverie.times import format_moment


def describe_backend(model: str, state: BackendState) -> dict[str, Any]:
    """A backend of a model, with no secret, no prompt and no engine's text."""
    backend, speed = state.backend, state.speed
    error, health = state.last_error, backend.health
    return {
        "model": model,
        "name": state.name,
        "kind": backend.kind,
        "url": backend.url or None,
        "machine": state.machine,
        "state": state.circuit,
        "reason": state.reason,
        "draining": state.draining,
        "retry_in": round(state.retry_in, 1),
        "ready": backend.ready,
        "slots": backend.slots,
        "in_flight": state.in_flight,
        "weight": backend.weight,
        "tokens_per_second": round(1 / speed.per_token, 1) if speed.per_token else None,
        "time_to_first_token": None if speed.ttft is None else round(speed.ttft, 4),
        "consecutive_failures": state.failures,
        "last_error": error and {"code": error.code, "at": _timestamp(error.at)},
        "last_probe": health
        and {
            "ok": health.ok,
            "code": health.error_code or None,
            "at": _timestamp(health.checked_at),
        },
    }


Load: TypeAlias = dict[str, tuple[int, dict[str, int]]]
"""For each model: how many wait, and how many run on each of its backends."""


def load_of(pools: Iterable[Pool]) -> bytes:
    """What runs and waits in this process, as JSON for another."""
    return msgspec.json.encode(
        {
            pool.model: (pool.waiting, {state.name: state.in_flight for state in pool.states})
            for pool in pools
        }
    )


def add_loads(described: Iterable[dict[str, Any]], told: Iterable[bytes]) -> None:
    """Add what runs on backends in other processes to their descriptions."""
    loads = [msgspec.json.decode(one, type=Load) for one in told]
    for backend in described:
        for load in loads:
            _, running = load.get(backend["model"], (0, {}))
            backend["in_flight"] += running.get(backend["name"], 0)


def waiting_elsewhere(model: str, told: Iterable[bytes]) -> int:
    """How many wait for a model in other processes."""
    return sum(msgspec.json.decode(one, type=Load).get(model, (0, {}))[0] for one in told)


def _timestamp(seconds: float) -> str:
    return format_moment(int(seconds * 1000))
