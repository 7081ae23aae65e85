"""Gateways are killed at random moments under load: what clients and the engine saw is accounted.

The kills are 200 in all. Several gateways share a store, so that each also closes what the others
left behind. The seed of a run is in its failure's report; ``REVERIE_TEST_SEED`` repeats it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.faults.ledger_tools import (
    Answer,
    Client,
    Gateway,
    Nursery,
    assert_accounts_are_true,
    http_client,
    nursery,
    rows_of,
    store_at,
    write_config,
)

LANES = 4
CLIENTS = 4
"""Of each lane."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # it takes 40 s of two cores
PATHS = ("/llm", "/v1/chat/completions")
PRICE = {"input": "0.18USD", "output": "0.54USD"}


def tokens_for(body: dict[str, Any]) -> Sequence[str]:
    """As many tokens as the request's number says, at most 16."""
    number = int(body["messages"][-1]["content"].rpartition("-")[2])
    return ("token ",) * (1 + number % 16)


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine(Script(tokens=tokens_for, delay=0.003)) as scripted:
        yield scripted


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = os.environ.get("REVERIE_TEST_SEED") or str(random.randrange(10**9))
    request.node.add_report_section("setup", "seed", f"REVERIE_TEST_SEED={seed}")
    return random.Random(seed)


class Lane:
    """A gateway that is killed and started again, and its clients, who never give up."""

    def __init__(self, name: str, chance: random.Random, http: aiohttp.ClientSession) -> None:
        self._chance = random.Random(chance.random())
        self._url: str | None = None
        self._over = False
        self.clients = [Client(http, f"{name}-{number}") for number in range(CLIENTS)]

    @property
    def answers(self) -> list[Answer]:
        return [answer for client in self.clients for answer in client.answers]

    async def run(self, nest: Nursery, config: Path, kills: int) -> None:
        asking = [asyncio.create_task(self._keep_asking(client)) for client in self.clients]
        try:
            for _ in range(kills):
                await self._live_and_die(await nest.start(config))
        finally:
            self._over = True
        await asyncio.gather(*asking)

    async def _live_and_die(self, gateway: Gateway) -> None:
        if self._chance.random() < 0.1:  # some don't live to serve
            await asyncio.sleep(self._chance.uniform(0, 0.3))
        else:
            self._url = await gateway.ready()
            await self._answered(self._chance.randrange(4))
            await asyncio.sleep(self._chance.uniform(0, 0.05))
        self._url = None
        await gateway.kill()

    async def _answered(self, number: int) -> None:
        """Wait until so many more answers are whole, however slow this machine is."""
        wanted = self._whole + number
        async with asyncio.timeout(60):
            while self._whole < wanted:
                await asyncio.sleep(0.005)

    @property
    def _whole(self) -> int:
        return sum(answer.whole for answer in self.answers)

    async def _keep_asking(self, client: Client) -> None:
        while not self._over:
            if self._url is None:
                await asyncio.sleep(0.01)
                continue
            if self._chance.random() < 0.2:
                await self._insist(client)
                continue
            await client.ask(
                self._url,
                stream=self._chance.random() < 0.6,
                path=self._chance.choice(PATHS),
                max_tokens=self._chance.choice((8, 64)),
                leave_after=0.02 if self._chance.random() < 0.1 else None,
            )

    async def _insist(self, client: Client) -> None:
        """Send a request again and again, under one ``Idempotency-Key``, until it is answered."""
        key, path = client.new_name(), self._chance.choice(PATHS)
        stream = self._chance.random() < 0.6
        while not self._over:
            if self._url is not None:
                answer = await client.ask(self._url, stream=stream, path=path, idempotency_key=key)
                if answer.whole:
                    return
            await asyncio.sleep(0.01)


async def crash(
    url: str, kills: int, chance: random.Random, engine: ScriptedEngine, folder: Path
) -> None:
    """Kill gateways of one store so often, and hold it against everybody's memory."""
    config = write_config(folder / "reverie.toml", url, engine, price=PRICE)
    async with store_at(url) as store, nursery(folder) as nest, http_client() as http:
        lanes = [Lane(str(number), chance, http) for number in range(LANES)]
        await asyncio.gather(*(lane.run(nest, config, kills // LANES) for lane in lanes))
        last = await nest.ready(config)
        await last.stop()
        answers = [answer for lane in lanes for answer in lane.answers]
        assert_accounts_are_true(store, answers, engine)
        # The test was one: enough was answered, and enough was cut.
        outcomes = {row.outcome for row in rows_of(store)}
        assert outcomes >= {"ok", "length", "lost"}
        assert sum(answer.whole for answer in answers) > kills // 2
        insisted = [answer for answer in answers if answer.said != answer.name]
        cut, whole = ({a.said for a in insisted if a.whole is it} for it in (False, True))
        assert cut & whole


async def test_killed_gateways_on_one_sqlite_file_leave_true_accounts(
    engine: ScriptedEngine, chance: random.Random, tmp_path: Path
) -> None:
    await crash(f"sqlite:///{tmp_path}/reverie.db", 140, chance, engine, tmp_path)


async def test_killed_gateways_on_postgresql_leave_true_accounts(
    engine: ScriptedEngine, chance: random.Random, tmp_path: Path, postgres_database: str
) -> None:
    await crash(postgres_database, 60, chance, engine, tmp_path)
