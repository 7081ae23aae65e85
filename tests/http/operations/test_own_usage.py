"""A key's holder sees its own limits and use, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from reverie.http.operations import own_usage
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.limits import RateLimits
from reverie.store.tags import set_tags
from reverie.store.usage import COUNTS
from reverie.testing import Script, ScriptedEngine
from reverie.times import now_ms, parse_day
from tests.gateway.accounts.test_ledger import make_key
from tests.harness import Gateway, StartGateway, chat, store_of_servers

DAY = parse_day("2026-11-10")
BUDGET = {"budget": 1_000_000_000, "budget_period": "day", "currency": "USD"}
LIMITS = RateLimits(rpm=10, tpm=1000, concurrency=3)
PRICED = {"price": {"input": "1000USD", "output": "1000USD"}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_of_servers(tmp_path)


async def start(
    start_gateway: StartGateway, engine: ScriptedEngine, store: Store, **more: Any
) -> Gateway:
    engine.script = Script(tokens=("a", "b"), prompt_tokens=40)
    models = [{"name": "m", "backends": [{"url": engine.url}], **PRICED}]
    return await start_gateway(models=models, **more)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def add_usage(store: Store, key_id: str, day: int, model: str, requests: int) -> None:
    """Requests of one nano-unit each."""
    counts = {**dict.fromkeys(COUNTS, 0), "requests": requests, "cost": requests}
    row = {"key_id": key_id, "day": day, "model": model, "currency": "USD", **counts}
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), [row])


async def until_settled(gateway: Gateway) -> None:
    await gateway.until(lambda: gateway.app.ledger is not None and gateway.app.ledger.open == 0)


@pytest.mark.parametrize("path", ["/v1/usage", "/usage", "/llm/usage", "/v1/usage/"])
async def test_a_holder_sees_limits_what_is_left_and_what_was_spent(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store, path: str
) -> None:
    await asyncio.to_thread(make_key, store, "mine", limits=LIMITS, **BUDGET)
    await asyncio.to_thread(make_key, store, "other")
    gateway = await start(start_gateway, engine, store)
    assert (await gateway.post(chat(max_tokens=8), headers=bearer("mine")))[0] == 200
    for _ in range(3):
        assert (await gateway.post(chat(max_tokens=8), headers=bearer("other")))[0] == 200
    await until_settled(gateway)
    status, view, _ = await gateway.get(path, headers=bearer("mine"))
    assert (status, view["object"], view["key"]["id"]) == (200, "usage", "key_mine")
    assert (view["key"]["rpm"], view["key"]["budget"]) == (10, "1.00 USD/day")
    left = view["left"]
    assert (left["requests"]["left"], left["tokens"]["left"], left["concurrency"]) == (9, 958, 3)
    assert 0 < left["tokens"]["resets_in_s"] <= 61
    assert (left["budget_nano"], left["budget"]) == (958_000_000, "0.958 USD")
    for period in ("today", "month"):
        total = view[period]["total"]
        assert (total["requests"], total["prompt_tokens"], total["completion_tokens"]) == (1, 40, 2)
        assert total["costs"] == [{"currency": "USD", "nano": 42_000_000, "formatted": "0.042 USD"}]
        assert [one["model"] for one in view[period]["by_model"]] == ["m"]


async def test_what_is_left_on_a_model_is_told_by_whatever_name_the_limit_has(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    limits = {"alias": RateLimits(rpm=5)}
    await asyncio.to_thread(make_key, store, "mine", model_limits=limits)
    gateway = await start_gateway(engine)
    assert (await gateway.post(chat(), headers=bearer("mine")))[0] == 200
    _, view, _ = await gateway.get("/v1/usage", headers=bearer("mine"))
    assert view["left"]["models"]["alias"]["requests"]["left"] == 4


@pytest.mark.postgres
async def test_what_is_left_is_told_by_the_stores_clock(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = await start_gateway(engine, store={"url": postgres_database})
    store = Store(StoreSettings(url=postgres_database))
    await asyncio.to_thread(make_key, store, "mine", limits=LIMITS)
    store.close()
    assert (await gateway.post(chat(), headers=bearer("mine")))[0] == 200
    monkeypatch.setattr(own_usage, "now_ms", lambda: now_ms() + 600_000)
    _, view, _ = await gateway.get("/v1/usage", headers=bearer("mine"))
    assert view["left"]["requests"]["left"] == 9


async def test_what_running_requests_set_aside_is_not_left(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    await asyncio.to_thread(make_key, store, "mine", limits=LIMITS, **BUDGET)
    gateway = await start(start_gateway, engine, store)
    engine.script = Script(stall_after=0)
    asking = asyncio.create_task(gateway.post(chat(max_tokens=8), headers=bearer("mine")))
    await engine.wait_for(lambda e: e.stalled == 1)
    _, view, _ = await gateway.get("/v1/usage", headers=bearer("mine"))
    assert view["left"]["concurrency"] == 2
    assert view["left"]["budget_nano"] == 1_000_000_000 - (2 + 8 + 32 + 8) * 1_000_000
    engine.resume()
    assert (await asking)[0] == 200


async def test_a_key_that_is_not_known_sees_nothing(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    await asyncio.to_thread(make_key, store, "mine")
    gateway = await start(start_gateway, engine, store)
    for headers in ({}, bearer("wrong")):
        assert (await gateway.get("/v1/usage", headers=headers))[0] == 401


async def test_without_stored_keys_there_is_what_was_spent(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engine, store)
    assert (await gateway.post(chat(max_tokens=8)))[0] == 200
    await until_settled(gateway)
    status, view, _ = await gateway.get("/v1/usage")
    assert (status, view["key"]["name"], view["left"]) == (200, "anonymous", {})
    assert view["today"]["total"]["requests"] == 1


async def test_a_holder_is_told_the_days_and_dimensions_that_it_asks_for(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    key = await asyncio.to_thread(make_key, store, "mine")
    with store.write() as connection:
        set_tags(connection, key.id, ["team:a", "prod"])
    add_usage(store, key.id, DAY, "m", 1)
    add_usage(store, key.id, DAY, "n", 2)
    add_usage(store, key.id, DAY + 1, "m", 4)
    add_usage(store, key.id, DAY + 40, "m", 8)
    for other in ("key_other", "anonymous", "static-1"):
        add_usage(store, other, DAY, "m", 100)
    gateway = await start(start_gateway, engine, store)

    async def asked(query: str) -> list[tuple[Any, ...]]:
        status, view, _ = await gateway.get(f"/v1/usage?{query}", headers=bearer("mine"))
        assert (status, view["since"], view["until"]) == (200, "2026-11-01", "2026-11-30")
        assert view["key"]["tags"] == ["prod", "team:a"]
        return [
            (row.get("day"), row.get("model"), row["requests"], row["costs"][0]["nano"])
            for row in view["rows"]
        ]

    november = "since=2026-11-01&until=2026-11-30"
    by_model = [(None, "m", 5, 5), (None, "n", 2, 2)]
    assert await asked(november) == by_model
    assert await asked(f"{november}&by=model") == by_model
    assert await asked(f"{november}&by=day") == [
        ("2026-11-10", None, 3, 3),
        ("2026-11-11", None, 4, 4),
    ]
    both = [
        ("2026-11-10", "m", 1, 1),
        ("2026-11-10", "n", 2, 2),
        ("2026-11-11", "m", 4, 4),
    ]
    assert await asked(f"{november}&by=day,model") == both
    assert await asked(f"{november}&by=day&by=model") == both
    assert await asked(f"{november}&key=key_other&tag=prod") == by_model  # no word of a holder's
    _, plain, _ = await gateway.get("/v1/usage", headers=bearer("mine"))
    assert not {"rows", "since", "until"} & plain.keys()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=key", "by"),
        ("by=tag", "by"),
        ("by=day,key", "by"),
        ("by=", "by"),
        ("since=yesterday", "since"),
        ("until=7d", "until"),
        ("since=2026-11-02&until=2026-11-01", "since"),
    ],
)
async def test_a_holder_is_told_which_parameter_is_wrong(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store, query: str, param: str
) -> None:
    await asyncio.to_thread(make_key, store, "mine")
    gateway = await start(start_gateway, engine, store)
    status, answer, _ = await gateway.get(f"/v1/usage?{query}", headers=bearer("mine"))
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert answer["error"]["param"] == param
