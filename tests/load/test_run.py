"""As many requests are sent as the plan says, as many at a time, and none is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import repeat

import pytest

from reverie.load.client import Client
from reverie.load.run import Load, Plan
from reverie.testing import Script, ScriptedEngine

pytestmark = pytest.mark.integration

BODY = b'{"messages":[{"role":"user","content":"Hi"}],"stream":true,"model":"m"}'


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as running:
        yield running


@pytest.fixture
def client(engine: ScriptedEngine) -> Iterator[Client]:
    asking = Client(engine.url, headers={}, timeout=5.0)
    yield asking
    asking.close()


async def test_as_many_as_were_planned_are_sent(client: Client, engine: ScriptedEngine) -> None:
    load = Load(client, Plan(concurrency=4, requests=10), repeat(BODY))
    await load.run()
    assert (load.sent, len(load.outcomes), load.under_way) == (10, 10, 0)
    assert len(engine.requests) == 10
    assert not load.was_stopped
    assert load.seconds > 0


async def test_so_many_are_under_way_at_a_time(client: Client, engine: ScriptedEngine) -> None:
    engine.script = Script(stall_after=1)
    load = Load(client, Plan(concurrency=5, requests=20), repeat(BODY))
    running = asyncio.ensure_future(load.run())
    await engine.wait_for(lambda engine: engine.stalled == 5)
    assert (load.sent, load.under_way) == (5, 5)
    load.stop()
    await running
    assert (load.sent, load.outcomes, load.under_way) == (5, [], 5)


async def test_with_a_rate_they_are_sent_however_long_answers_take(
    client: Client, engine: ScriptedEngine
) -> None:
    engine.script = Script(stall_after=1)
    load = Load(client, Plan(rate=500.0, requests=12), repeat(BODY))
    running = asyncio.ensure_future(load.run())
    await engine.wait_for(lambda engine: engine.stalled == 12)
    engine.resume()
    await running
    assert len(load.outcomes) == 12


async def test_a_rate_may_be_bounded(client: Client, engine: ScriptedEngine) -> None:
    engine.script = Script(stall_after=1)
    load = Load(client, Plan(rate=1000.0, concurrency=3, requests=12), repeat(BODY))
    running = asyncio.ensure_future(load.run())
    await engine.wait_for(lambda engine: engine.stalled == 3)
    await asyncio.sleep(0.05)
    assert load.under_way == 3
    load.stop()
    await running
    assert load.sent == 3


async def test_after_its_time_none_is_sent_but_all_are_answered(client: Client) -> None:
    load = Load(client, Plan(concurrency=2, seconds=0.05), repeat(BODY))
    await load.run()
    assert load.sent == len(load.outcomes) > 0


async def test_a_failure_is_an_outcome(client: Client, engine: ScriptedEngine) -> None:
    engine.scripts = [Script(status=500)]
    load = Load(client, Plan(concurrency=1, requests=3), repeat(BODY))
    await load.run()
    assert [outcome.failure is None for outcome in load.outcomes] == [False, True, True]
