"""Four gateways that share a store keep a key's limits together, however many ask at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from reverie.money import NANO
from reverie.store import keys
from reverie.store.database.engine import Store
from reverie.store.limits import RateLimits
from reverie.testing import Script, ScriptedEngine
from reverie.times import now_ms
from tests.faults.ledger_tools import (
    Answer,
    Client,
    add_key,
    assert_accounts_are_true,
    http_client,
    nursery,
    rows_of,
    store_at,
    write_config,
)

GATEWAYS = 4
SAID = 5
"""Tokens of each answer."""
PRICE = NANO // 1_000_000
"""Nano-units for a token of an answer."""


class Cluster:
    """Gateways on one store, and one engine behind them."""

    def __init__(
        self,
        urls: Sequence[str],
        store: Store,
        engine: ScriptedEngine,
        http: aiohttp.ClientSession,
        crowd: int,
    ) -> None:
        self.urls = urls
        self.store = store
        self.engine = engine
        self.http = http
        self.crowd = crowd
        """Requests at once, for a test that wants many."""
        self.peak = 0
        """The most that the engine ever had at once."""
        self.script = Script(tokens=self._say)
        engine.script = self.script

    def _say(self, _body: dict[str, Any]) -> Sequence[str]:
        self.peak = max(self.peak, self.engine.in_flight)
        return ("token ",) * SAID

    async def key(self, **settings: Any) -> str:
        return await asyncio.to_thread(add_key, self.store, "tested", **settings)

    async def rush(self, client: Client, number: int) -> list[Answer]:
        """Send requests all at once, over all gateways."""
        return await asyncio.gather(
            *(
                client.ask(self.urls[n % GATEWAYS], stream=n % 3 == 0, max_tokens=SAID)
                for n in range(number)
            )
        )

    async def ask_until_refused(self, client: Client) -> int:
        """Ask the gateways in turn, one request after the other; give how many were answered."""
        answered = 0
        while (await client.ask(self.urls[answered % GATEWAYS], max_tokens=SAID)).whole:
            answered += 1
        return answered


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if request.param == "sqlite":
        url, crowd = f"sqlite:///{tmp_path}/reverie.db", 200
    else:
        url, crowd = request.getfixturevalue("postgres_database"), 1000
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_at(url))
        engine = await stack.enter_async_context(ScriptedEngine())
        http = await stack.enter_async_context(http_client())
        nest = await stack.enter_async_context(nursery(tmp_path))
        config = write_config(
            tmp_path / "reverie.toml",
            url,
            engine,
            server={"queue_size": 2000, "queue_timeout": 60},
            accounts={"timeout": 30},  # a busy machine is none of the tests' matters
            model={"aliases": ["alias"]},
            price={"output": "1USD"},
            backend={"slots": 2000},
        )
        add_key(store, "another")  # so that callers need one from the start
        gateways = [await nest.start(config) for _ in range(GATEWAYS)]
        urls = [await gateway.ready() for gateway in gateways]
        yield Cluster(urls, store, engine, http, crowd)


def counted(answers: Sequence[Answer]) -> Counter[str]:
    """How many were answered, and how many got which error."""
    return Counter("whole" if answer.whole else answer.error["code"] for answer in answers)


async def test_requests_per_minute_are_exact_over_all_gateways(cluster: Cluster) -> None:
    limit = cluster.crowd // 10
    client = Client(cluster.http, "rpm", await cluster.key(limits=RateLimits(rpm=limit)))
    answers = await cluster.rush(client, cluster.crowd)
    assert counted(answers) == {"whole": limit, "rate_limit_exceeded": cluster.crowd - limit}
    assert cluster.engine.generations == limit
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == str(limit)
        if not answer.whole:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 61
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    left = [int(a.headers["x-ratelimit-remaining-requests"]) for a in answers if a.whole]
    assert sorted(left) == list(range(limit))  # each was told another number
    assert_accounts_are_true(cluster.store, client.answers, cluster.engine)


async def test_tokens_per_minute_are_set_aside_and_what_is_not_used_is_given_back(
    cluster: Cluster,
) -> None:
    limit, crowd = 2000, cluster.crowd // 2
    client = Client(cluster.http, "tpm", await cluster.key(limits=RateLimits(tpm=limit)))
    cluster.engine.script = Script(tokens=("token ",) * SAID, stall_after=1)
    rushing = asyncio.create_task(cluster.rush(client, crowd))
    refused = await refused_after(client, cluster, crowd)
    set_aside = [row.reserved_tokens for row in rows_of(cluster.store)]
    each = set_aside[0]
    assert set(set_aside) == {each}
    assert len(set_aside) == limit // each
    assert counted(refused) == {"rate_limit_exceeded": crowd - limit // each}
    assert all(answer.headers["x-ratelimit-limit-tokens"] == str(limit) for answer in refused)

    cluster.engine.script = cluster.script
    cluster.engine.resume()
    assert counted(await rushing)["whole"] == limit // each
    used = 10 + SAID  # what the engine counts
    more = (limit - each - limit // each * used) // used + 1
    assert await cluster.ask_until_refused(client) == more
    assert_accounts_are_true(cluster.store, client.answers, cluster.engine)


async def refused_after(client: Client, cluster: Cluster, crowd: int) -> list[Answer]:
    """Wait until each of the crowd is refused or stalls at the engine; give the former."""
    async with asyncio.timeout(60):
        while True:
            refused = [answer for answer in client.answers if answer.error]
            if len(refused) + cluster.engine.stalled == crowd:
                return refused
            await asyncio.sleep(0.02)


async def test_no_more_requests_at_once_than_allowed_ever_reach_the_engine(
    cluster: Cluster,
) -> None:
    secret = await cluster.key(limits=RateLimits(concurrency=5))
    cluster.engine.script = Script(tokens=cluster._say, delay=0.005)
    clients = [Client(cluster.http, f"at-once-{number}", secret) for number in range(40)]

    async def insist(client: Client) -> None:
        while sum(answer.whole for answer in client.answers) < cluster.crowd // 200:
            url = cluster.urls[len(client.answers) % GATEWAYS]
            answer = await client.ask(url, stream=len(client.answers) % 2 == 0)
            if not answer.whole:
                assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
                assert answer.headers["Retry-After"] == "1"
                await asyncio.sleep(0.05)

    await asyncio.gather(*map(insist, clients))
    assert cluster.peak == 5
    answers = [answer for client in clients for answer in client.answers]
    assert_accounts_are_true(cluster.store, answers, cluster.engine)


async def test_a_budget_is_spent_to_the_last_request_that_fits_and_no_further(
    cluster: Cluster,
) -> None:
    fitting = cluster.crowd // 20
    budget = fitting * SAID * PRICE + PRICE  # with some left that is not enough for one
    client = Client(
        cluster.http,
        "budget",
        await cluster.key(budget=budget, budget_period="month", currency="USD"),
    )
    answers = counted(await cluster.rush(client, cluster.crowd))
    # While one is being paid for it may be counted twice, so that the last ones had to wait.
    answers["whole"] += await cluster.ask_until_refused(client)
    assert answers == {"whole": fitting, "insufficient_quota": cluster.crowd - fitting}
    assert sum(row.cost for row in rows_of(cluster.store)) == budget - PRICE
    assert client.answers[-1].status == 429
    assert_accounts_are_true(cluster.store, client.answers, cluster.engine)


async def test_a_revoked_key_is_refused_by_every_gateway(cluster: Cluster) -> None:
    secret = await cluster.key(id="key_revoked")
    client = Client(cluster.http, "revoked", secret)
    assert counted(await cluster.rush(client, GATEWAYS)) == {"whole": GATEWAYS}
    with cluster.store.write() as connection:
        assert keys.revoke(connection, "key_revoked", now_ms())
    # At once where it would cost something, and a second later wherever it is asked for.
    assert counted(await cluster.rush(client, GATEWAYS)) == {"invalid_api_key": GATEWAYS}
    await asyncio.sleep(1.1)
    for url in cluster.urls:
        headers = {"Authorization": f"Bearer {secret}"}
        async with cluster.http.get(f"{url}/v1/models", headers=headers) as response:
            assert response.status == 401
    assert cluster.engine.generations == GATEWAYS
