"""Ending a chat's answer that runs under an ``Idempotency-Key``."""

from __future__ import annotations

import asyncio
import json

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

PATH = "/v1/chat/completions/cancel"
KEY = {"Idempotency-Key": "one"}
BODY = json.dumps(chat(stream=True)).encode()


@pytest.fixture
async def stalled(engine: ScriptedEngine, gateway: Gateway) -> Gateway:
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    return gateway


async def begin(gateway: Gateway) -> asyncio.Task[bytes]:
    async def read() -> bytes:
        url = gateway.url + "/v1/chat/completions"
        async with gateway.http.post(url, data=BODY, headers=KEY) as response:
            return await response.read()

    return asyncio.create_task(read())


async def test_it_ends_at_once_and_frees_its_slot(stalled: Gateway, engine: ScriptedEngine) -> None:
    reading = await begin(stalled)
    await engine.wait_for(lambda e: e.stalled)
    status, answer, _ = await stalled.post(BODY, PATH, KEY)
    assert (status, answer["ended"]) == (200, True)
    await engine.wait_for(lambda e: not e.stalled)
    assert b"answer_cancelled" in await reading


async def test_only_who_asked_for_the_answer_can_end_it(
    stalled: Gateway, engine: ScriptedEngine
) -> None:
    reading = await begin(stalled)
    await engine.wait_for(lambda e: e.stalled)
    other = json.dumps(chat("Another", stream=True)).encode()
    assert (await stalled.post(other, PATH, KEY))[1]["ended"] is False
    assert (await stalled.post(BODY, PATH, {"Idempotency-Key": "two"}))[1]["ended"] is False
    engine.resume()
    assert b"[DONE]" in await reading


async def test_what_is_complete_stays_as_it_is(gateway: Gateway) -> None:
    assert b"[DONE]" in await (await begin(gateway))
    status, answer, _ = await gateway.post(BODY, PATH, KEY)
    assert (status, answer["ended"]) == (200, False)


async def test_it_takes_a_key_a_post_and_a_callers_key(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "k"})
    assert (await gateway.post(BODY, PATH, KEY))[0] == 401
    caller = {"Authorization": "Bearer k"}
    status, answer, _ = await gateway.post(BODY, PATH, caller)
    assert (status, answer["error"]["param"]) == (400, "Idempotency-Key")
    assert (await gateway.get(PATH, caller))[0] == 405
