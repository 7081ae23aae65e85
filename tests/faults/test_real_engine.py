"""The embedded engine itself: what its own counters say when clients leave or it is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import aiohttp
import pytest

from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL
from tests.harness import Gateway, StartGateway, chat

pytestmark = pytest.mark.real

STORY = "Tell me a very long story about the sea."


async def start(start_gateway: StartGateway, **model: Any) -> Gateway:
    """The default model with two slots, ready."""
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(
        models=[{"name": "m", "source": DEFAULT_MODEL, "slots": 2, "batch": 32, **model}],
        server={"queue_timeout": 100},
    )
    await gateway.until(lambda: gateway.pool().ready)
    return gateway


@pytest.fixture
async def real(start_gateway: StartGateway) -> Gateway:
    return await start(start_gateway)


def runner(gateway: Gateway) -> Any:
    return gateway.pool().backends[0].runner


async def engine_get(gateway: Gateway, path: str) -> str:
    """Ask the engine itself, over its socket."""
    connector = aiohttp.UnixConnector(str(runner(gateway).socket), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://engine{path}") as response,
    ):
        return await response.text()


async def busy_slots(gateway: Gateway) -> int:
    slots = json.loads(await engine_get(gateway, "/slots"))
    return sum(slot["is_processing"] for slot in slots)


async def generated(gateway: Gateway) -> dict[str, float]:
    """The engine's counters of prompt and completion tokens."""
    lines = (await engine_get(gateway, "/metrics")).splitlines()
    counters = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        name: float(counters[f"llamacpp:{name}_total"])
        for name in ("prompt_tokens", "tokens_predicted")
    }


async def until_slots(gateway: Gateway, busy: int) -> None:
    async with asyncio.timeout(60):
        while await busy_slots(gateway) != busy:
            await asyncio.sleep(0.01)


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_leaving_during_the_answer_stops_the_engine(real: Gateway) -> None:
    async with real.http.post(
        real.url + "/llm", json=chat(STORY, stream=True, max_tokens=4000)
    ) as response:
        for _ in range(6):
            await response.content.readline()
        response.close()
    await until_slots(real, 0)
    assert (await generated(real))["tokens_predicted"] < 1000
    assert real.pool().in_flight == 0


async def test_leaving_during_the_prompt_stops_the_engine_within_a_batch(real: Gateway) -> None:
    task = asyncio.create_task(real.post(chat("sea " * 6000, max_tokens=5)))
    await until_slots(real, 1)
    await leave(task)
    await until_slots(real, 0)
    counted = await generated(real)
    assert counted["tokens_predicted"] == 0
    assert counted["prompt_tokens"] < 6000


async def test_leaving_the_queue_never_reaches_the_engine(real: Gateway) -> None:
    running = [asyncio.create_task(real.post(chat(STORY, max_tokens=2000))) for _ in range(2)]
    await until_slots(real, 2)
    queued = asyncio.create_task(real.post(chat("Never", max_tokens=5)))
    await real.until(lambda: real.pool().waiting == 1)
    await leave(queued)
    await real.until(lambda: real.pool().waiting == 0)
    for task in running:
        await leave(task)
    await until_slots(real, 0)
    assert real.pool().in_flight == 0


async def test_an_engine_killed_while_idle_is_back_for_the_next_request(real: Gateway) -> None:
    first = runner(real).pid
    os.kill(first, signal.SIGKILL)
    status, answer, _ = await real.post(chat("Hi", max_tokens=3))
    assert status == 200, answer
    assert runner(real).pid != first


async def test_an_engine_killed_while_busy_continues_its_answers_once_it_is_back(
    real: Gateway,
) -> None:
    async def stream() -> str:
        body = chat(STORY, stream=True, max_tokens=60)
        async with real.http.post(real.url + "/llm", json=body) as response:
            started.release()
            return await response.text()

    started = asyncio.Semaphore(0)
    streams = [asyncio.create_task(stream()) for _ in range(2)]
    for _ in streams:
        await started.acquire()
    os.kill(runner(real).pid, signal.SIGKILL)
    for text in await asyncio.gather(*streams):
        chunks = [json.loads(event[6:]) for event in text.split("\n\n")[:-2]]
        assert text.endswith("data: [DONE]\n\n")
        assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
        assert chunks[-1]["usage"]["completion_tokens"] <= 60
    assert real.pool().in_flight == 0


async def test_an_engine_killed_under_a_required_tool_call_breaks_the_answer_and_serves_the_next(
    real: Gateway,
) -> None:
    parameters = {"type": "object", "properties": {"story": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "tell", "parameters": parameters}}]
    body = chat(STORY, stream=True, max_tokens=2000, tools=tools, tool_choice="required")
    once = {"Connection": "close"}
    async with real.http.post(real.url + "/llm", json=body, headers=once) as response:
        await response.content.readline()
        os.kill(runner(real).pid, signal.SIGKILL)
        text = await response.text()
    last = json.loads(text.rstrip().rsplit("data: ", 1)[1])
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["code"] == "backend_error"
    assert "[DONE]" not in text
    assert real.pool().in_flight == 0
    assert (await real.post(chat("Hi", max_tokens=3)))[0] == 200


async def test_more_requests_than_the_context_holds_take_turns_and_all_complete(
    start_gateway: StartGateway,
) -> None:
    """Together they come to more than 2048 tokens, at which llama.cpp would break all off."""
    small = await start(start_gateway, slots=4, context=2048, kv_tokens=2048)
    results = await asyncio.gather(
        *(small.post(chat("sea " * 520, max_tokens=2)) for _ in range(4))
    )
    assert [status for status, _, _ in results] == [200] * 4
    assert sum(answer["usage"]["prompt_tokens"] for _, answer, _ in results) > 2048


async def test_a_large_max_tokens_shuts_nobody_out(real: Gateway) -> None:
    """One request can't come to more than its context, and there is room for that and another."""
    long = asyncio.create_task(real.post(chat(STORY, max_tokens=100_000)))
    await until_slots(real, 1)
    assert (await real.post(chat("Hi", max_tokens=3)))[0] == 200
    assert not long.done()
    await leave(long)
