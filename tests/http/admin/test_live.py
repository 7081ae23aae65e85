"""``/admin/v1/live``: what runs, what waits, the last hour; and an end to one request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import reverie
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

ADMIN = {"REVERIE_ADMIN_KEY": "a-very-secret-admin-key", "REVERIE_API_KEYS": "a-user-key"}
AS_ADMIN = {"Authorization": "Bearer a-very-secret-admin-key"}
AS_USER = {"Authorization": "Bearer a-user-key", "X-Request-Id": "mine"}
PATH = "/admin/v1/live"
LONG = Script(tokens=["word "] * 2_000, delay=0.01)


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    backend = {"url": engine.url, "slots": 1}
    return await start_gateway(environ=ADMIN, models=[{"name": "m", "backends": [backend]}])


async def seen(gateway: Gateway) -> dict[str, Any]:
    await asyncio.sleep(1)  # a snapshot is shared by all who look within a second
    status, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert status == 200
    return dict(answer)


async def test_a_request_is_seen_from_the_queue_to_its_answer(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = LONG
    running = [
        asyncio.create_task(gateway.post(chat(max_tokens=2_000), headers=AS_USER)),
    ]
    await gateway.until(lambda: engine.in_flight == 1)
    running.append(
        asyncio.create_task(
            gateway.post(chat("my secret question"), headers={**AS_USER, "X-Request-Id": "next"})
        )
    )
    await gateway.until(lambda: gateway.pool().waiting == 1)
    live = await seen(gateway)
    first, second = live["requests"]
    assert (live["running"], first["id"], first["state"], first["key"]) == (
        2,
        "mine",
        "answer",
        "static-1",
    )
    assert first["tokens"] > 0
    assert first["backend"]
    assert (second["id"], second["state"], second["tokens"]) == ("next", "queued", 0)
    (model,) = live["models"]
    assert (model["waiting"], model["in_flight"], model["slots"]) == (1, 1, 1)
    assert "secret" not in json.dumps(live)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await gateway.until(lambda: gateway.pool().in_flight == 0)


async def test_the_operator_ends_one_request_and_no_other(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = LONG
    running = asyncio.create_task(gateway.post(chat(max_tokens=2_000), headers=AS_USER))
    await gateway.until(lambda: engine.in_flight == 1)
    path = "/admin/v1/requests/{}/cancel"
    status, answer, _ = await gateway.post(None, path.format("other"), AS_ADMIN)
    assert (status, answer["error"]["param"]) == (404, "request_id")
    status, answer, _ = await gateway.post(None, path.format("mine"), AS_ADMIN)
    assert (status, answer) == (200, {"id": "mine", "cancelled": 1})
    status, answer, _ = await running
    assert (status, answer["error"]["code"]) == (409, "answer_cancelled")
    assert "operator" in answer["error"]["message"]
    await gateway.until(lambda: gateway.pool().in_flight == 0 and not engine.in_flight)


async def test_the_last_hour_is_summed_by_minutes(engine: ScriptedEngine, gateway: Gateway) -> None:
    engine.scripts += [Script(), Script(), Script(status=500)]
    engine.script = Script(status=500)
    for _ in range(3):
        await gateway.post(chat(), headers=AS_USER)
    live = await seen(gateway)
    assert sum(minute["requests"] for minute in live["minutes"]) == 3
    assert sum(minute["failed"] for minute in live["minutes"]) == 1
    assert sum(minute["completion_tokens"] for minute in live["minutes"]) == 4
    assert live["duration"]["p95"] >= live["duration"]["p50"] > 0
    assert live["time_to_first_token"]["p50"] > 0
    (error,) = live["errors"]
    assert (error["id"], error["error"], error["key"]) == ("mine", "backend_error", "static-1")


async def test_watchers_get_a_snapshot_each_second(gateway: Gateway) -> None:
    url = f"{gateway.url}{PATH}?stream=true"
    async with gateway.http.get(url, headers=AS_ADMIN) as response:
        assert response.content_type == "text/event-stream"
        for _ in range(2):
            line = await response.content.readline()
            assert json.loads(line.removeprefix(b"data: "))["running"] == 0
            assert await response.content.readline() == b"\n"


async def test_a_kept_answer_is_seen_with_its_generation(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = LONG
    headers = {**AS_USER, "Idempotency-Key": "once"}
    running = asyncio.create_task(gateway.post(chat(max_tokens=2_000), headers=headers))
    await gateway.until(lambda: engine.in_flight == 1)
    kinds = {one["kind"]: one for one in (await seen(gateway))["requests"]}
    assert set(kinds) == {"request", "generation"}
    assert kinds["generation"]["tokens"] > 0
    status, answer, _ = await gateway.post(None, "/admin/v1/requests/mine/cancel", AS_ADMIN)
    assert (status, answer["cancelled"]) == (200, 2)
    assert (await running)[0] == 409
    await gateway.until(lambda: gateway.pool().in_flight == 0)


@pytest.mark.parametrize("headers", [{}, AS_USER])
async def test_it_is_the_operator_s_alone(gateway: Gateway, headers: dict[str, str]) -> None:
    for method, path in (("GET", PATH), ("POST", "/admin/v1/requests/mine/cancel")):
        async with gateway.http.request(method, gateway.url + path, headers=headers) as response:
            assert response.status in (401, 403, 404)


async def test_models_backends_and_the_gateway_are_told_of(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(status=500)
    await gateway.post(chat(), headers=AS_USER)
    (state,) = gateway.pool().states
    body = {"model": "m", "backend": state.name}
    await gateway.post(body, "/admin/v1/backends/drain", AS_ADMIN)
    live = await seen(gateway)
    (model,) = live["models"]
    assert (model["state"], model["task"]) == ("down", "generate")
    (backend,) = model["backends"]
    assert backend.pop("last_error")["code"] == "backend_error"
    assert backend == {
        "name": state.name,
        "state": "closed",
        "reason": "draining",
        "draining": True,
        "ready": True,
        "in_flight": 0,
        "slots": 1,
        "tokens_per_second": None,
    }
    started = live["gateway"].pop("started_at")
    assert started.endswith("Z")
    assert live["gateway"] == {
        "version": reverie.__version__,
        "keyless": False,
        "admin": True,
        "store": "up",
    }
    assert live["pulls"] == []


async def test_a_stream_ends_whole_when_the_server_does(gateway: Gateway) -> None:
    url = f"{gateway.url}{PATH}?stream=true"
    async with gateway.http.get(url, headers=AS_ADMIN) as response:
        first = await response.content.readline()
        gateway.server.stop()
        rest = await response.read()  # which fails if the stream is cut
    assert (first + rest).endswith(b"\n\n")
