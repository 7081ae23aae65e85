"""The models as their operator sees them; engines that run here are loaded and unloaded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat
from tests.reloading import ADMIN, AS_ADMIN, reload

PATH, LOAD, UNLOAD = (f"/admin/v1/models{end}" for end in ("", "/load", "/unload"))
DRAIN, RESUME = (f"/admin/v1/backends/{end}" for end in ("drain", "resume"))
LONG = Script(tokens=["word "] * 2_000, delay=0.01)


async def listed(gateway: Gateway) -> list[dict[str, Any]]:
    status, answer, headers = await gateway.get(PATH, AS_ADMIN)
    assert (status, answer["object"], headers["Cache-Control"]) == (200, "list", "no-store")
    return list(answer["data"])


async def shown(gateway: Gateway) -> dict[str, Any]:
    """The only model."""
    (model,) = await listed(gateway)
    return model


async def post(gateway: Gateway, path: str, **body: Any) -> tuple[int, Any]:
    status, answer, _ = await gateway.post(body, path, AS_ADMIN)
    return status, answer


async def test_a_model_elsewhere_is_told_with_its_backends(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    model = {
        "price": {"input": "0.18USD", "output": "1USD"},
        "limits": {"rpm": 60},
        "default": True,
    }
    gateway = await start_gateway(engine, environ=ADMIN, backend={"slots": 3}, model=model)
    await gateway.until(lambda: gateway.pool().ready)
    told = await shown(gateway)
    backends = (await gateway.get("/admin/v1/backends", AS_ADMIN))[1]["data"]
    assert told.pop("backends") == backends
    assert told == {
        "name": "m",
        "aliases": ["alias"],
        "task": "generate",
        "default": True,
        "state": "ready",
        "reason": None,
        "seconds_to_ready": None,
        "source": None,
        "runs_here": False,
        "engines": None,
        "warm": False,
        "idle_unload": None,
        "memory_bytes": None,
        "context": None,
        "slots": 3,
        "in_flight": 0,
        "waiting": 0,
        "price": {"currency": "USD", "input": "0.18", "cached": "0.18", "output": "1.00"},
        "limits": {"rpm": 60, "tpm": None, "concurrency": None},
    }


async def test_a_model_whose_probes_fail_says_so(start_gateway: StartGateway) -> None:
    backend = {"url": "http://127.0.0.1:9/v1"}
    gateway = await start_gateway(environ=ADMIN, models=[{"name": "m", "backends": [backend]}])
    await gateway.until(lambda: gateway.app.models.default.state == "down")
    told = await shown(gateway)
    assert (told["state"], told["reason"], told["price"]) == (
        "down",
        "The latest probe of every backend failed.",
        None,
    )


async def test_only_an_engine_that_runs_here_is_loaded_and_unloaded(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    for path in (LOAD, UNLOAD):
        for name in ("m", "alias"):
            status, answer = await post(gateway, path, model=name)
            assert (status, answer["error"]["param"]) == (400, "model")
            assert answer["error"]["message"].startswith("m runs on other servers")
        status, answer = await post(gateway, path, model="none")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        for body in ({}, {"model": ""}, {"model": None}, {"model": "m", "odd": 1}):
            assert (await post(gateway, path, **body))[0] == 400


async def test_a_drained_backend_gets_nothing_and_ends_what_it_has(
    start_gateway: StartGateway,
) -> None:
    async with ScriptedEngine(LONG) as a, ScriptedEngine(Script(tokens=("b",))) as b:
        gateway = await start_gateway(a, b, environ=ADMIN)
        await gateway.until(lambda: all(one.ready for one in gateway.pool().backends))
        first, second = (state.name for state in gateway.pool().states)
        status, told = await post(gateway, DRAIN, model="alias", backend=second)
        assert (status, told["name"], told["draining"], told["reason"], told["state"]) == (
            200, second, True, "draining", "closed"
        )  # fmt: skip
        running = asyncio.create_task(gateway.post(chat(max_tokens=300)))
        await gateway.until(lambda: a.in_flight == 1)
        await post(gateway, DRAIN, model="m", backend=first)
        assert (await post(gateway, RESUME, model="m", backend=second))[1]["reason"] != "draining"
        for _ in range(5):
            answer = (await gateway.post(chat()))[1]
            assert answer["choices"][0]["message"]["content"] == "b"
        metrics = (await gateway.get("/metrics", AS_ADMIN))[1]
        reason = 'reverie_backend_state_reason{backend="%s",model="m",reason="draining"} 1.0'
        assert reason % first in metrics
        assert reason % second not in metrics
        status, answer, _ = await running
        assert (status, answer["usage"]["completion_tokens"]) == (200, 300)


async def test_a_model_that_is_drained_whole_refuses_at_once_and_is_not_ready(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN, backend={"slots": 1})
    await gateway.until(lambda: gateway.pool().ready)
    engine.script = LONG
    running, waiting = (asyncio.create_task(gateway.post(chat(max_tokens=100))) for _ in range(2))
    await gateway.until(lambda: gateway.pool().waiting == 1)
    (state,) = gateway.pool().states
    await post(gateway, DRAIN, model="m", backend=state.name)
    done, _ = await asyncio.wait({running, waiting}, return_when="FIRST_COMPLETED")
    for status, answer, headers in (done.pop().result(), await gateway.post(chat())):
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        assert "its operator lets no new request to it" in answer["error"]["message"]
        assert int(headers["Retry-After"]) > 0
    assert [(await task)[0] for task in (running, waiting)].count(200) == 1
    told = await shown(gateway)
    assert (told["state"], told["reason"]) == ("down", "Its operator lets no new request to it.")
    status, readiness, _ = await gateway.get("/readyz")
    assert (status, readiness["status"], readiness["down"]) == (503, "DOWN", ["m"])
    assert not (await gateway.get("/v1/models"))[1]["data"][0]["loaded"]
    await post(gateway, RESUME, model="m", backend=state.name)
    assert (await gateway.get("/readyz"))[0] == 200
    assert (await gateway.post(chat(max_tokens=2)))[0] == 200


async def test_a_reload_keeps_a_drain_with_its_backends(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    (state,) = gateway.pool().states
    await post(gateway, DRAIN, model="m", backend=state.name)
    gateway.written["models"][0]["price"] = {"input": "1USD"}
    await reload(gateway)
    assert (await shown(gateway))["backends"][0]["draining"]
    gateway.written["models"][0]["backends"][0]["slots"] = 2
    await reload(gateway)
    assert not (await shown(gateway))["backends"][0]["draining"]


@pytest.mark.parametrize("path", [DRAIN, RESUME])
async def test_another_backend_is_404_and_the_known_ones_are_named(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    (state,) = gateway.pool().states
    status, answer = await post(gateway, path, model="m", backend="other")
    assert (status, answer["error"]["param"]) == (404, "backend")
    assert state.name in answer["error"]["message"]
    assert (await post(gateway, path, model="other", backend=state.name))[0] == 404
    assert (await post(gateway, path, model="m"))[0] == 400


@pytest.fixture(scope="module")
def real() -> None:
    fetch(DEFAULT_MODEL)


def small(**more: Any) -> dict[str, Any]:
    engine = {"slots": 2, "kv_tokens": 2048, "cache_mib": 0, "source": DEFAULT_MODEL}
    return {"name": "a", "aliases": ["x"], **engine, **more}


@pytest.mark.usefixtures("real")
async def test_the_real_engine_is_unloaded_and_comes_back_with_the_next_request(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small()], environ=ADMIN)
    assert (await gateway.post(chat(max_tokens=2)))[0] == 200
    told = await shown(gateway)
    assert (told["state"], told["runs_here"], told["warm"]) == ("ready", True, True)
    assert (told["source"], told["context"] > 0) == (DEFAULT_MODEL, True)
    assert told["memory_bytes"] > 98_362_432
    for _ in range(2):
        status, told = await post(gateway, UNLOAD, model="x")
        assert (status, told["state"], told["reason"]) == (200, "cold", None)
    assert told["seconds_to_ready"] > 0
    assert gateway.pool("a").backends[0].runner.pid is None
    assert (await gateway.get("/readyz"))[0] == 200
    assert (await gateway.post(chat(max_tokens=2)))[0] == 200
    assert (await shown(gateway))["state"] == "ready"


@pytest.mark.usefixtures("real")
async def test_the_real_engine_is_loaded_when_asked_and_an_unload_ends_its_load(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small(warm=False)], environ=ADMIN)
    for _ in range(2):
        status, told = await post(gateway, LOAD, model="a")
        assert (status, told["state"]) == (202, "loading")
        assert told["reason"]
    assert (await post(gateway, UNLOAD, model="a"))[1]["state"] == "cold"
    await post(gateway, LOAD, model="a")
    await gateway.until(lambda: gateway.pool("a").ready)
    assert (await post(gateway, LOAD, model="a"))[1]["state"] == "ready"
    assert (await gateway.post(chat(max_tokens=2)))[0] == 200


@pytest.mark.usefixtures("real")
async def test_the_real_engine_is_not_unloaded_while_an_answer_runs(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small()], environ=ADMIN)
    await gateway.until(lambda: gateway.pool("a").ready)
    body = chat("Tell me a very long story about the sea.", stream=True, max_tokens=100)
    async with gateway.http.post(gateway.url + "/llm", json=body) as response:
        await response.content.readline()
        status, answer = await post(gateway, UNLOAD, model="a")
        assert (status, answer["error"]["code"]) == (409, "conflict")
        assert answer["error"]["message"].startswith("1 request holds the model.")
        assert (await response.text()).endswith("data: [DONE]\n\n")
    await gateway.until(lambda: not gateway.app.models.default.deployment.on_demand.in_use)
    assert (await post(gateway, UNLOAD, model="a"))[0] == 200


@pytest.mark.usefixtures("real")
async def test_a_drained_real_engine_is_not_loaded_by_a_request(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small(warm=False)], environ=ADMIN)
    await post(gateway, DRAIN, model="a", backend="embedded")
    status, answer, _ = await gateway.post(chat(max_tokens=2))
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert gateway.app.models.default.deployment.on_demand.is_cold
    await post(gateway, RESUME, model="a", backend="embedded")
    assert (await gateway.post(chat(max_tokens=2)))[0] == 200
