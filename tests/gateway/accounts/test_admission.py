"""A request is admitted by what it really comes to, as far as anybody can tell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from reverie.events import Delta, Prompt
from reverie.gateway.accounts.admission import Unrecorded
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.record import RequestRecord
from reverie.prompt_bounds import extent_of_prompt
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.limits import RateLimits
from reverie.testing import Script, ScriptedEngine
from tests.gateway.accounts.test_ledger import BEARER, make_key
from tests.harness import Gateway, StartGateway, chat, store_of_servers
from tests.store.ledger_helpers import PRICE, request

DIGITS = "7" * 600
PRICED = {"price": {"input": "1000USD", "output": "1000USD"}}

pytestmark = pytest.mark.integration


def words_of_four(body: Any) -> int:
    """What an engine counts whose tokens have four bytes, and whose template adds thirty."""
    return 30 + sum(len(message["content"]) // 4 for message in body["messages"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_of_servers(tmp_path)


async def start(
    start_gateway: StartGateway,
    engine: ScriptedEngine,
    store: Store,
    *,
    kind: str = "llamacpp",
    **key: Any,
) -> Gateway:
    await asyncio.to_thread(make_key, store, **key)
    backend = {"url": engine.url, "kind": kind}
    return await start_gateway(models=[{"name": "m", "backends": [backend], **PRICED}])


def reserved(store: Store) -> list[tuple[int, int]]:
    """Tokens and nano-units that are set aside for the open rows."""
    table = schema.ledger.c
    with store.read() as connection:
        chosen = select(table.reserved_tokens, table.reserved_cost).where(table.outcome.is_(None))
        return [tuple(row) for row in connection.execute(chosen)]


async def closed_row(store: Store) -> Any:
    """The one row, once it is closed."""
    async with asyncio.timeout(10):
        while reserved(store):
            await asyncio.sleep(0.01)
    with store.read() as connection:
        (row,) = connection.execute(select(schema.ledger)).all()
    return row


async def test_what_a_prompt_of_digits_comes_to_is_known_before_the_limit_is_spent(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.count = lambda body: 630
    gateway = await start(start_gateway, engine, store, limits=RateLimits(tpm=640))
    status, answer, _ = await gateway.post(chat(DIGITS, max_tokens=16), headers=BEARER)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "646" in answer["error"]["message"]
    assert engine.generations == 0


async def test_what_fits_by_its_count_is_admitted_though_its_bound_does_not_fit(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.count = words_of_four
    gateway = await start(start_gateway, engine, store, limits=RateLimits(tpm=200))
    status, *_ = await gateway.post(chat("word" * 150, max_tokens=16), headers=BEARER)
    assert status == 200


async def test_requests_side_by_side_are_admitted_by_their_counts(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.count = words_of_four
    engine.script = Script(stall_after=0)
    gateway = await start(start_gateway, engine, store, limits=RateLimits(tpm=600))
    requests = [
        asyncio.create_task(gateway.post(chat("word" * 150, max_tokens=16), headers=BEARER))
        for _ in range(4)
    ]
    await engine.wait_for(lambda e: e.stalled == 3)
    assert [tokens for tokens, _ in reserved(store)] == [30 + 150 + 16] * 3
    engine.resume()
    statuses = [status for status, *_ in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200, 200, 200, 429]


async def test_a_budget_is_kept_by_counts_too(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.count = lambda body: 630
    budget = {"budget": 300_000_000, "budget_period": "day", "currency": "USD"}
    gateway = await start(start_gateway, engine, store, **budget)
    status, answer, _ = await gateway.post(chat(DIGITS, max_tokens=2), headers=BEARER)
    assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
    assert engine.generations == 0


async def test_what_was_set_aside_beyond_the_prompt_is_given_back_as_soon_as_its_engine_tells(
    store: Store,
) -> None:
    make_key(store, limits=RateLimits(tpm=1000))
    ledger = Ledger(store)
    await ledger.start()
    try:
        record = RequestRecord("req", "/llm")
        wanted = request(
            ledger.next_row(), "key_secret", tokens=900, prompt_tokens=800, max_tokens=100
        )
        await ledger.reserve(wanted, record)
        record.saw([Prompt(790)])  # not worth a write
        record.saw([Prompt(200), Delta("a")])
        async with asyncio.timeout(10):
            while reserved(store) != [(300, 200 * PRICE.input + 100 * PRICE.output)]:
                await asyncio.sleep(0.01)
        other = request(ledger.next_row(), "key_secret", tokens=700)
        await ledger.reserve(other, RequestRecord("other", "/llm"))
    finally:
        await ledger.stop()


async def test_a_client_that_leaves_before_any_engine_counted_is_not_billed_by_the_bound(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    gateway = await start(start_gateway, engine, store, kind="generic")
    leaving = asyncio.create_task(gateway.post(chat(DIGITS, stream=True), headers=BEARER))
    await engine.wait_for(lambda e: e.stalled == 1)
    await asyncio.sleep(0.1)
    leaving.cancel()
    row = await closed_row(store)
    assert (row.outcome, row.estimated) == ("cancelled", True)
    assert row.prompt_tokens == 600 // 3 + 8 + 32


async def test_a_client_that_leaves_is_not_billed_for_prompts_that_no_engine_has_begun(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    limits = RateLimits(tpm=100_000)  # so that they are read one after the other
    gateway = await start(start_gateway, engine, store, kind="generic", limits=limits)
    body = {"model": "m", "prompt": [DIGITS] * 4, "stream": True}
    leaving = asyncio.create_task(gateway.post(body, "/v1/completions", headers=BEARER))
    await engine.wait_for(lambda e: e.stalled == 1)
    await asyncio.sleep(0.1)
    leaving.cancel()
    row = await closed_row(store)
    assert (row.outcome, row.completion_tokens) == ("cancelled", 1)
    _, estimate, _ = extent_of_prompt(DIGITS)
    assert row.prompt_tokens == estimate


@pytest.mark.postgres
async def test_an_answer_may_be_as_long_as_a_request_can_say(
    start_gateway: StartGateway, engine: ScriptedEngine, postgres_database: str
) -> None:
    """The ledger's numbers are no larger than that, and a request has a prompt, too."""
    gateway = await start_gateway(engine, store={"url": postgres_database})
    status, *_ = await gateway.post(chat(max_tokens=2**31 - 1))
    assert status == 200
    async with gateway.http.get(gateway.url + "/readyz") as response:
        assert response.status == 200


@pytest.mark.postgres
async def test_an_engine_that_tells_of_more_tokens_than_there_can_be_leaves_a_row_all_the_same(
    start_gateway: StartGateway, engine: ScriptedEngine, postgres_database: str
) -> None:
    gateway = await start_gateway(engine, store={"url": postgres_database})
    engine.script = Script(prompt_tokens=2**31 - 1)
    status, *_ = await gateway.post({"model": "m", "prompt": ["a", "b"]}, "/v1/completions")
    assert status == 200
    with contextlib.closing(psycopg.connect(postgres_database)) as database:
        found = database.execute("SELECT outcome, prompt_tokens FROM ledger").fetchall()
    assert found == [("ok", 2**31 - 1)]


async def test_without_a_ledger_streams_of_the_same_claim_still_differ_in_their_numbers() -> None:
    first = Unrecorded()
    await asyncio.sleep(0.002)
    assert 0 < first.base < Unrecorded().base
    await first.settle(b"whole")


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_prompt_that_was_counted_before_is_no_larger_once_its_answer_broke_off(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store, leaves: bool
) -> None:
    """Or more would count against a limit than was set aside, and be billed."""
    engine.count = words_of_four
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    gateway = await start(start_gateway, engine, store, limits=RateLimits(tpm=200))
    body = chat("word" * 150, stream=True, max_tokens=16)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=BEARER) as answer:
        await answer.content.readany()
        if not leaves:
            await engine.stop()
            await answer.read()
    row = await closed_row(store)
    assert row.outcome == ("cancelled" if leaves else "failed")
    assert (row.prompt_tokens, row.completion_tokens) == (30 + 150, 1)
