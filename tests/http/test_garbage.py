"""A request leaves nothing behind that only the garbage collector would free.

Such cycles hold all that a request had until the next collection: memory that others must go
around, and time of the collector's.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

Ask: TypeAlias = Callable[[Gateway, int], Awaitable[None]]


async def whole(gateway: Gateway, _: int) -> None:
    await gateway.post(chat())


async def streamed(gateway: Gateway, _: int) -> None:
    async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
        await response.read()


async def kept(gateway: Gateway, number: int) -> None:
    headers = {"Idempotency-Key": str(number)}
    for stream in (True, False):
        body = chat(stream=stream)
        url = gateway.url + "/llm"
        async with gateway.http.post(url, json=body, headers=headers) as response:
            await response.read()


async def several(gateway: Gateway, _: int) -> None:
    await gateway.post(chat(n=2), "/v1/chat/completions")


async def of_anthropic(gateway: Gateway, _: int) -> None:
    await gateway.post(chat(max_tokens=9), "/v1/messages")


async def wrong(gateway: Gateway, _: int) -> None:
    await gateway.post({"messages": 1})


async def left(gateway: Gateway, _: int) -> None:
    body = chat(stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body) as response:
        await response.content.readany()
        response.close()
    await gateway.until(lambda: gateway.pool().in_flight == 0)


async def garbage_of(gateway: Gateway, ask: Ask, *, at_first: bool = False) -> Counter[str]:
    """What five requests leave, by type.

    Args:
        at_first: they are the first; else one comes before them that doesn't count.
    """
    if not at_first:
        await ask(gateway, 0)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for number in range(1, 6):
            await ask(gateway, number)
        gc.collect()
        types = [f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    own = (one for one in types if one.startswith("reverie.") and ".testing." not in one)
    return Counter(own)


@pytest.mark.parametrize("ask", [whole, streamed, kept, several, of_anthropic, wrong])
async def test_an_answer_leaves_no_cycles(gateway: Gateway, ask: Ask) -> None:
    assert await garbage_of(gateway, ask) == {}


async def test_an_engine_s_failure_leaves_no_cycles(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(status=500)
    assert await garbage_of(gateway, whole) == {}


@pytest.mark.parametrize("script", [Script(status=503), Script(tokens=("a", "b"), die_after=1)])
async def test_a_failover_leaves_no_cycles(start_gateway: StartGateway, script: Script) -> None:
    async with ScriptedEngine() as one, ScriptedEngine() as two:
        gateway = await start_gateway(one, two)
        await streamed(gateway, 0)
        home = one if one.generations else two  # of a conversation that begins so
        home.script = script
        found = await garbage_of(gateway, streamed, at_first=True)
        assert home.died or home.refused
    assert found == {}


async def test_a_client_that_leaves_leaves_no_cycles(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    assert await garbage_of(gateway, left) == {}
