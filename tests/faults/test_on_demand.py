"""Models loaded on demand with the real engine, also while the configuration changes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reverie.errors import ConfigurationError
from reverie.gateway.serving.registry import ModelRegistry
from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL, Settings
from tests.harness import Gateway, StartGateway, chat
from tests.reloading import ADMIN, refused, reload

pytestmark = pytest.mark.real

STORY = "Tell me a very long story about the sea."
NEED = 139
"""MiB that such a model takes, by the estimate."""


@pytest.fixture(scope="module", autouse=True)
def _on_disk() -> None:
    fetch(DEFAULT_MODEL)


def small(name: str, **more: Any) -> dict[str, Any]:
    """A model that runs here and loads quickly."""
    engine = {"slots": 2, "kv_tokens": 2048, "cache_mib": 0, "source": DEFAULT_MODEL}
    return {"name": name, **engine, **more}


def pid(gateway: Gateway, model: str = "") -> int | None:
    found: int | None = gateway.pool(model).backends[0].runner.pid
    return found


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def frozen(gateway: Gateway, model: str) -> Iterator[int]:
    """Let a model's engine pause in the middle of what it does; gives its process."""
    process = pid(gateway, model)
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGCONT)


async def say(gateway: Gateway, model: str = "", **more: Any) -> int:
    """The status of a short generation."""
    status, _, _ = await gateway.post(chat(model=model, max_tokens=2, **more))
    return status


async def states(gateway: Gateway) -> dict[str, str]:
    told: dict[str, str] = (await gateway.get("/health"))[1]["models"]
    return told


async def loaded(gateway: Gateway) -> set[str]:
    listed = (await gateway.get("/v1/models"))[1]["data"]
    return {entry["id"] for entry in listed if entry["loaded"]}


def starts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The models whose engines were started, in order."""
    return [r.fields["model"] for r in caplog.records if r.message == "engine started"]  # type: ignore[attr-defined]


async def test_a_model_that_stays_keeps_its_engine_and_one_that_changes_gets_another(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a"), small("b")], environ=ADMIN)
    await gateway.until(lambda: gateway.pool("a").ready and gateway.pool("b").ready)
    a, b = pid(gateway, "a"), pid(gateway, "b")
    assert a
    assert b
    gateway.written["models"] = [
        small("a", aliases=["x"], price={"output": "1USD"}, limits={"rpm": 9}, idle_unload=600),
        small("b", context=512),
    ]
    gateway.written["server"] |= {"stall_timeout": 20, "queue_size": 5}
    await reload(gateway)
    assert await say(gateway, "x") == 200
    assert pid(gateway, "a") == a
    assert await say(gateway, "b") == 200  # it has waited for the new engine
    assert pid(gateway, "b") != b
    await gateway.until(lambda: not is_alive(b))
    gateway.written["models"].pop()
    await reload(gateway)
    assert pid(gateway, "a") == a


async def test_the_engine_of_a_removed_model_ends_after_its_last_stream(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a")], environ=ADMIN)
    body = chat(STORY, stream=True, max_tokens=50)
    async with gateway.http.post(gateway.url + "/llm", json=body) as response:
        await response.content.readline()
        with frozen(gateway, "a") as old:
            gateway.written["models"] = [small("b", warm=False)]
            await reload(gateway)
            assert (await gateway.post(chat(model="a")))[1]["error"]["code"] == "model_not_found"
            assert is_alive(old)
        assert (await response.text()).endswith("data: [DONE]\n\n")
    await gateway.until(lambda: not is_alive(old))


async def test_twenty_concurrent_requests_load_a_cold_model_once(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reverie")
    gateway = await start_gateway(models=[small("a", warm=False)])
    assert (await gateway.get("/health"))[:2] == (
        200,
        {**(await gateway.get("/health"))[1], "status": "OK", "models": {"a": "cold"}},
    )
    assert (await gateway.get("/readyz"))[0] == 200
    assert await loaded(gateway) == set()
    assert starts(caplog) == []

    asked = [asyncio.create_task(say(gateway)) for _ in range(20)]
    await gateway.until(lambda: gateway.app.models.default.state == "loading")
    assert (await gateway.get("/readyz"))[0] == 200
    assert (await gateway.get("/health"))[1]["status"] == "OK"
    assert await asyncio.gather(*asked) == [200] * 20
    assert starts(caplog) == ["a"]
    assert await loaded(gateway) == {"a"}


async def test_a_request_that_is_refused_loads_nothing(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reverie")
    gateway = await start_gateway(
        models=[small("a", warm=False, limits={"tpm": 1})], environ={"REVERIE_API_KEYS": "k"}
    )
    assert await say(gateway) == 401
    status, _, _ = await gateway.post(chat(), headers={"Authorization": "Bearer k"})
    assert status == 429
    assert gateway.app.models.default.state == "cold"
    assert starts(caplog) == []


async def test_an_idle_model_is_unloaded_and_loaded_again(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(models=[small("a", idle_unload=0.3)])
    await gateway.until(lambda: gateway.app.models.default.state == "ready")
    first = pid(gateway)
    assert first
    await gateway.until(lambda: gateway.app.models.default.state == "cold")
    await gateway.until(lambda: not is_alive(first))
    for _ in range(3):
        assert await say(gateway) == 200
        await gateway.until(lambda: gateway.app.models.default.state == "cold")


async def test_a_model_is_not_unloaded_under_a_request_however_long(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reverie")
    gateway = await start_gateway(models=[small("a", idle_unload=0.05)])
    status, answer, _ = await gateway.post(chat(STORY, max_tokens=60))
    assert (status, answer["usage"]["completion_tokens"]) == (200, 60)
    assert starts(caplog) in (["a"], ["a", "a"])  # it may have idled before the request came
    ends = [r.message for r in caplog.records if r.message in ("model unloaded", "request")]
    assert ends[-1] == "request" or ends[-2:] == ["request", "model unloaded"]


async def test_asking_while_it_is_being_unloaded_loads_it_again(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a")])
    await gateway.until(lambda: gateway.pool("a").ready)
    on_demand = gateway.app.models.default.deployment.on_demand
    assert on_demand is not None
    unloading = asyncio.create_task(on_demand.unload("a test"))
    await gateway.until(lambda: not gateway.pool("a").ready)
    assert await say(gateway) == 200
    await unloading


async def test_the_least_recently_used_model_makes_room(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        models=[small("a"), small("b", warm=False), small("c", warm=False)],
        server={"memory_budget_mib": 2 * NEED},
    )
    for model, here in (
        ("a", {"a"}),
        ("b", {"a", "b"}),
        ("c", {"b", "c"}),
        ("b", {"b", "c"}),
        ("a", {"a", "b"}),
    ):
        assert await say(gateway, model) == 200
        assert await loaded(gateway) == here
    assert await states(gateway) == {"a": "ready", "b": "ready", "c": "cold"}


async def test_two_models_take_turns_in_the_room_of_one_and_no_request_is_lost(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        models=[small("a"), small("b", warm=False)], server={"memory_budget_mib": NEED}
    )
    asked = [say(gateway, "ab"[number % 2]) for number in range(12)]
    assert await asyncio.gather(*asked) == [200] * 12
    assert len(await loaded(gateway)) == 1


async def test_a_request_without_room_for_its_model_waits_and_is_told_when_to_retry(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        models=[small("a"), small("b", warm=False)],
        server={"memory_budget_mib": NEED, "queue_timeout": 60},
    )
    await gateway.until(lambda: gateway.pool("a").ready)
    body = chat(STORY, model="a", stream=True, max_tokens=50)
    async with gateway.http.post(gateway.url + "/llm", json=body) as running:
        await running.content.readline()
        with frozen(gateway, "a"):
            gateway.pool("b").bound(queue_size=10, queue_timeout=0.5)
            status, answer, headers = await gateway.post(chat(model="b", max_tokens=2))
            assert (status, answer["error"]["code"]) == (503, "model_loading")
            assert int(headers["Retry-After"]) >= 1
            assert "waits for memory" in answer["error"]["message"]
            await gateway.until(lambda: gateway.app.models.find("b").state == "cold")
            gateway.pool("b").bound(queue_size=10, queue_timeout=60)
            waiting = asyncio.create_task(say(gateway, "b"))
        assert (await running.text()).endswith("data: [DONE]\n\n")  # undisturbed
    assert await waiting == 200
    assert await loaded(gateway) == {"b"}


async def test_models_that_cannot_fit_are_refused_at_the_start_and_by_a_reload(
    start_gateway: StartGateway,
) -> None:
    together = {"models": [small("a"), small("b")]}
    settings = Settings.model_validate({**together, "server": {"memory_budget_mib": 2 * NEED - 1}})
    with pytest.raises(ConfigurationError, match="warm = false"):
        await ModelRegistry(settings).start()
    gateway = await start_gateway(
        models=[small("a")], server={"memory_budget_mib": NEED}, environ=ADMIN
    )
    await gateway.until(lambda: gateway.pool("a").ready)
    before = pid(gateway)
    gateway.written["models"].append(small("b", warm=False, kv_tokens=4096))
    [problem] = await refused(gateway)
    assert problem.startswith("model b: it needs about 184 MiB")
    assert (pid(gateway), await states(gateway)) == (before, {"a": "ready"})


async def test_a_model_that_changes_gets_the_room_of_its_engine_before(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        models=[small("a")], server={"memory_budget_mib": NEED}, environ=ADMIN
    )
    await gateway.until(lambda: gateway.pool("a").ready)
    first = pid(gateway, "a")
    gateway.written["models"] = [small("a", context=512)]
    await reload(gateway)
    await gateway.until(lambda: gateway.pool("a").ready)
    second = pid(gateway, "a")
    assert second != first
    body = chat(STORY, stream=True, max_tokens=50)
    async with gateway.http.post(gateway.url + "/llm", json=body) as running:
        await running.content.readline()
        with frozen(gateway, "a"):
            gateway.written["models"] = [small("a", context=600)]
            await reload(gateway)
            waiting = asyncio.create_task(say(gateway))
            await gateway.until(lambda: gateway.pool("a").waiting == 1)
        assert (await running.text()).endswith("data: [DONE]\n\n")
    assert await waiting == 200
    assert pid(gateway, "a") != second


async def test_an_engine_that_dies_while_it_is_loaded_on_demand_is_loaded_all_the_same(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a", warm=False)])
    asked = asyncio.create_task(say(gateway))
    await gateway.until(lambda: pid(gateway) is not None)
    victim = pid(gateway)
    assert victim
    os.kill(victim, signal.SIGKILL)
    assert await asked == 200
    assert pid(gateway) != victim


async def test_a_drain_lets_requests_finish_that_wait_for_a_cold_model(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a", warm=False)])
    asked = asyncio.create_task(say(gateway))
    await gateway.until(lambda: gateway.app.models.default.state == "loading")
    gateway.server.stop()
    assert await asked == 200
    await gateway.until(lambda: pid(gateway) is None)


async def test_a_stop_in_the_middle_of_a_load_leaves_no_engine(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(models=[small("a", warm=False)], server={"drain_timeout": 0})
    asked = asyncio.create_task(gateway.post(chat(stream=True)))
    await gateway.until(lambda: pid(gateway) is not None)
    engine = pid(gateway)
    assert engine
    gateway.server.stop()
    await asyncio.gather(asked, return_exceptions=True)
    await gateway.until(lambda: not is_alive(engine))
