"""A key that floods the queue holds another key's requests up by no more than one turn."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.faults.ledger_tools import (
    Client,
    add_key,
    assert_accounts_are_true,
    http_client,
    nursery,
    store_at,
    write_config,
)

SLOTS = 2
FLOOD = 200
LIGHT = 10
PATIENCE = 60.0
QUEUE = re.compile(r"^reverie_queue_length.* (\S+)$", re.MULTILINE)


def started(engine: ScriptedEngine) -> list[str]:
    """The names of the requests that the engine began with, in this order."""
    return [recorded.body["messages"][-1]["content"] for recorded in engine.requests]


async def one_turn(engine: ScriptedEngine) -> None:
    """Let what is at the engine end, and the next ones begin."""
    begun = engine.generations
    engine.resume()
    await engine.wait_for(
        lambda e: e.generations == begun + SLOTS and e.stalled == SLOTS, timeout=PATIENCE
    )


async def until_waiting(http: aiohttp.ClientSession, url: str, number: int) -> None:
    """Wait until so many requests are in the gateway's queue."""
    seen = None
    for _ in range(int(PATIENCE / 0.02)):
        async with http.get(f"{url}/metrics") as response:
            found = QUEUE.search(await response.text())
        if found is not None and (seen := float(found[1])) == number:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{seen} requests wait, not {number}")


@pytest.mark.parametrize("weights", [(1, 1), (1, 5)], ids=["alike", "weighted"])
async def test_a_light_key_waits_one_turn_beside_a_flooding_one(
    weights: tuple[int, int], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/reverie.db"
    script = Script(tokens=("token ",) * 2, stall_after=1)  # nothing ends before it is told to
    async with (
        ScriptedEngine(script) as engine,
        store_at(url) as store,
        http_client() as http,
        nursery(tmp_path) as nest,
    ):
        flooding = Client(http, "flood", add_key(store, "flooding", weight=weights[0]))
        light = Client(http, "light", add_key(store, "light", weight=weights[1]))
        gateway = await nest.ready(
            write_config(
                tmp_path / "reverie.toml",
                url,
                engine,
                server={"queue_size": 2 * FLOOD, "queue_timeout": 600},
                accounts={"timeout": 30},
                backend={"slots": SLOTS},
            )
        )
        flood = [asyncio.create_task(flooding.ask(gateway.url)) for _ in range(FLOOD)]
        await until_waiting(http, gateway.url, FLOOD - SLOTS)
        await engine.wait_for(lambda e: e.stalled == SLOTS, timeout=PATIENCE)

        for number in range(1, LIGHT + 1):
            before = len(engine.requests)
            asked = asyncio.create_task(light.ask(gateway.url, stream=number % 2 == 0))
            await until_waiting(http, gateway.url, FLOOD + number - before)
            name = light.answers[-1].name
            await one_turn(engine)
            assert name in started(engine)[before : before + SLOTS]
            await one_turn(engine)
            assert (await asked).whole

        engine.script = Script()
        while not all(task.done() for task in flood):
            engine.resume()
            await asyncio.sleep(0.01)
        await gateway.stop()
        assert all(answer.whole for answer in flooding.answers + light.answers)
        assert_accounts_are_true(store, flooding.answers + light.answers, engine)
