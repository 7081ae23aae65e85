"""With a real engine, no text makes a request larger than what was set aside for it."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import pytest

from reverie.models.store import fetch
from reverie.request import GenerateRequest
from reverie.settings import DEFAULT_MODEL
from reverie.store import keys
from reverie.store.database.engine import Store
from reverie.store.keys import Key
from reverie.store.limits import RateLimits
from reverie.times import now_ms
from tests.faults.ledger_tools import rows_of, store_at
from tests.harness import Gateway, StartGateway, chat

pytestmark = pytest.mark.real

BEARER = {"Authorization": "Bearer secret"}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a thing.",
        "parameters": {"type": "object", "properties": {"näme": {"type": "string"}}},
    },
}
PRICED = {"price": {"input": "1000USD", "output": "1000USD"}}


def random_text(chance: random.Random, length: int) -> str:
    """A text of one of the sorts that tokenizers find hardest."""
    sort = chance.randrange(8)
    if sort == 0:
        return "".join(chr(chance.randrange(1, 0xD800)) for _ in range(length))
    if sort == 1:
        return "".join(chr(chance.randrange(0x1F300, 0x1FAFF)) for _ in range(length))
    if sort == 2:
        return "".join(chance.choice("0123456789") for _ in range(length))
    if sort == 3:
        return base64.b64encode(chance.randbytes(length)).decode()
    if sort == 4:
        return "".join(chance.choice("{}[]()<>;:=+-*/\\\"'`~!@#$%^&|\n\t ") for _ in range(length))
    if sort == 5:
        return "<|im_start|>" * (length // 8)
    if sort == 6:
        return "".join(chr(chance.randrange(0x20000, 0x2A6DF)) for _ in range(length))
    return ",".join(f"{chance.random():.9f}" for _ in range(length // 8))


async def start(start_gateway: StartGateway, **model: Any) -> Gateway:
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(
        models=[{"name": "m", "source": DEFAULT_MODEL, "batch": 256, **PRICED, **model}],
        server={"queue_timeout": 200},
    )
    await gateway.until(lambda: gateway.pool().ready)
    return gateway


async def test_no_text_has_more_tokens_than_its_bound(start_gateway: StartGateway) -> None:
    gateway = await start(start_gateway)
    backend = gateway.pool().backends[0]
    chance = random.Random(1)
    for number in range(300):
        messages = [
            {"role": role, "content": random_text(chance, chance.randrange(1, 200))}
            for role in ("user", "assistant", "user", "assistant", "user")[
                : chance.choice([1, 3, 5])
            ]
        ]
        if number % 7 == 0:
            messages[0]["name"] = random_text(chance, 10)
        tools = [TOOL] * chance.randrange(1, 4) if number % 5 == 0 else None
        request = GenerateRequest(model="m", messages=messages, tools=tools)
        count = await backend.count_prompt(request)
        assert count is not None
        assert count <= request.prompt_bound, messages


async def test_no_text_makes_a_key_exceed_its_limits(
    start_gateway: StartGateway, tmp_path: Any
) -> None:
    limit = 1500
    key = Key(
        id="key_1",
        name="team",
        created_at=now_ms(),
        limits=RateLimits(tpm=limit),
        budget=limit * 1_000_000,
        budget_period="month",
        currency="USD",
    )
    gateway = await start(start_gateway)
    async with store_at(f"sqlite:///{tmp_path}/reverie.db") as store:
        await asyncio.to_thread(add, store, key)
        chance = random.Random(2)
        texts = [random_text(chance, chance.randrange(20, 400)) for _ in range(24)]
        answers = await asyncio.gather(
            *(gateway.post(chat(text, max_tokens=8), headers=BEARER) for text in texts)
        )
        statuses = [status for status, *_ in answers]
        rows = await asyncio.to_thread(rows_of, store)
    assert set(statuses) == {200, 429}
    assert sum(row.prompt_tokens + row.completion_tokens for row in rows) <= limit
    assert sum(row.cost for row in rows) <= limit * 1_000_000
    for row in rows:
        assert row.prompt_tokens + row.completion_tokens <= row.reserved_tokens


def add(store: Store, key: Key) -> None:
    with store.write() as connection:
        keys.create(connection, key, "secret")


async def test_requests_that_do_not_fit_the_engines_memory_together_run_one_after_another(
    start_gateway: StartGateway,
) -> None:
    gateway = await start(start_gateway, slots=4, context=1024, kv_tokens=1024)
    answers = await asyncio.gather(
        *(gateway.post(chat(str(digit) * 600, max_tokens=64)) for digit in range(4))
    )
    assert [status for status, *_ in answers] == [200] * 4
    assert [answer["usage"]["prompt_tokens"] for _, answer, _ in answers] == [630] * 4
