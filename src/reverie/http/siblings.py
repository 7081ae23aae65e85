"""What a process that serves beside others answers when they ask, each by a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from reverie.errors import NotFound
from reverie.gateway.metrics import Metrics
from reverie.gateway.pulls import Pulls
from reverie.gateway.scheduling.description import load_of
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.siblings import Answer
from reverie.http.connection.in_flight import InFlight
from reverie.http.idempotency.replays import Replays
from reverie.http.operations.health import health_of

_json = msgspec.json.encode


def answers(
    registry: ModelRegistry, metrics: Metrics, in_flight: InFlight, pulls: Pulls, replays: Replays
) -> dict[str, Answer]:
    """What answers each question. The routes that ask say what they expect."""

    async def cancel(request_id: bytes) -> bytes:
        return _json(metrics.live.cancel(request_id.decode()))

    async def cancel_answer(body: bytes) -> bytes:
        key_id, key, proof = msgspec.json.decode(body, type=tuple[str, str, bytes])
        return _json(await replays.cancel(key_id, key, proof))

    async def cancel_pull(source: bytes) -> bytes:
        try:
            return _json((await pulls.cancel(source.decode())).to_json())
        except NotFound:
            return _json(None)

    def telling(what: Callable[[], Any]) -> Answer:
        async def answer(_: bytes) -> bytes:
            return _json(what())

        return answer

    async def render(_: bytes) -> bytes:
        return await metrics.render()

    async def loads(_: bytes) -> bytes:
        return load_of(model.pool for model in registry.models.all)

    return {
        "metrics": render,
        "loads": loads,
        "live": telling(lambda: metrics.live.tell(registry.models.all, pulls.running)),
        "health": telling(lambda: health_of(registry, in_flight)),
        "pulls": telling(lambda: [pull.to_json() for pull in pulls.all]),
        "cancel": cancel,
        "cancel_answer": cancel_answer,
        "cancel_pull": cancel_pull,
    }
