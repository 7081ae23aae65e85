"""A backend as its operator sees it, ready for JSON."""

from __future__ import annotations

from typing import Any

from reverie.gateway.scheduling.backend_state import BackendState
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


def _timestamp(seconds: float) -> str:
    return format_moment(int(seconds * 1000))
