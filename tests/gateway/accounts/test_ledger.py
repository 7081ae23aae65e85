"""What the ledger says of requests is what their clients saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select, update

from reverie import background
from reverie.errors import RateLimitExceeded, StoreFailure
from reverie.gateway.accounts import ledger as ledger_module
from reverie.gateway.accounts.journal import directory
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.record import RequestRecord
from reverie.settings import StoreSettings
from reverie.store import gateways, keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.keys import Key
from reverie.store.limits import RateLimits
from reverie.store.reservations import reserve
from reverie.testing import Script, ScriptedEngine
from reverie.times import now_ms
from tests.harness import Gateway, StartGateway, chat
from tests.store.ledger_helpers import request

BEARER = {"Authorization": "Bearer secret"}
PRICED = {"price": {"input": "1USD", "output": "2USD", "cached": "0.5USD"}}
KeyedGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db", isolation_level=None)) as it:
        it.row_factory = sqlite3.Row
        yield it


def rows(database: sqlite3.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY id")]


def outcomes(database: sqlite3.Connection) -> dict[int, str]:
    return {row["id"]: row["outcome"] for row in rows(database) if row["outcome"] is not None}


async def closed_row(gateway: Gateway, database: sqlite3.Connection) -> dict[str, Any]:
    """The one row, once it is closed."""
    await gateway.until(lambda: [r["outcome"] for r in rows(database)].count(None) == 0)
    (row,) = rows(database)
    return row


def make_key(store: Store, secret: str = "secret", **fields: Any) -> Key:
    key = Key(id=f"key_{secret}", name="team", created_at=now_ms(), **fields)
    with store.write() as connection:
        keys.create(connection, key, secret)
    return key


@pytest.fixture
def store(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Store]:
    """The gateways' store, as another process sees it."""
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/reverie.db"))
    yield opened
    opened.close()


@pytest.fixture
def keyed(start_gateway: StartGateway, store: Store, engine: ScriptedEngine) -> KeyedGateway:
    """Start a gateway that knows one key, ``secret``."""

    async def start(**fields: Any) -> Gateway:
        make_key(store, **fields)
        return await start_gateway(engine, model=PRICED)

    return start


@pytest.mark.parametrize("stream", [False, True])
async def test_a_complete_answer_is_in_the_ledger_by_the_time_it_is_complete(
    keyed: KeyedGateway,
    engine: ScriptedEngine,
    database: sqlite3.Connection,
    stream: bool,
) -> None:
    gateway = await keyed()
    engine.script = Script(tokens=("a", "b", "c"), prompt_tokens=11, cached_tokens=4)
    headers = {**BEARER, "X-Request-Id": "mine", "Idempotency-Key": "once"}
    body = chat(stream=stream)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as response:
        text = await response.text()
    (row,) = rows(database)
    assert ("[DONE]" in text) == stream
    assert (row["outcome"], row["request_id"], row["key_id"]) == ("ok", "mine", "key_secret")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (11, 4, 3)
    assert row["cost"] == 7 * 1000 + 4 * 500 + 3 * 2000
    assert (row["model"], row["idempotency_key"], row["estimated"]) == ("m", "once", 0)
    assert row["created_at"] <= row["first_token_at"] <= row["ended_at"]
    (day,) = database.execute("SELECT * FROM usage_daily").fetchall()
    assert (day["requests"], day["cost"], day["currency"]) == (1, row["cost"], "USD")


async def test_an_answer_cut_by_its_limit_says_length(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine)
    engine.script = Script(tokens=("a",) * 9)
    await gateway.post(chat(max_tokens=2))
    (row,) = rows(database)
    assert (row["outcome"], row["completion_tokens"], row["key_id"]) == ("length", 2, "anonymous")


async def test_a_stream_that_its_client_left_is_billed_for_what_was_delivered(
    keyed: KeyedGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await keyed()
    engine.script = Script(tokens=("a", "b", "c", "d"), stall_after=2)
    body = chat("x" * 30, stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=BEARER) as response:
        for _ in range(3):
            await response.content.readline()
        response.close()
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["completion_tokens"], row["estimated"]) == ("cancelled", 2, 1)
    assert row["cost"] == row["prompt_tokens"] * 1000 + 2 * 2000 > 0


async def test_one_that_left_before_anything_was_delivered_costs_nothing(
    keyed: KeyedGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await keyed()
    engine.script = Script(tokens=("a",), first_delay=30)
    task = asyncio.create_task(gateway.post(chat(), headers=BEARER))
    await engine.wait_for(lambda e: e.in_flight == 1)
    task.cancel()
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["cost"], row["prompt_tokens"]) == ("cancelled", 0, 0)


@pytest.mark.parametrize(
    "script", [Script(status=500), Script(tokens=("a", "b"), die_after=1), Script(html=True)]
)
async def test_a_failed_request_costs_nothing(
    keyed: KeyedGateway,
    engine: ScriptedEngine,
    database: sqlite3.Connection,
    script: Script,
) -> None:
    gateway = await keyed()
    engine.script = script
    body = chat(stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=BEARER) as response:
        await response.read()
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["cost"]) == ("failed", 0)


async def test_a_running_stream_is_noted_every_second(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine)
    engine.script = Script(tokens=("a", "b", "c"), stall_after=3)
    async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)):
        await gateway.until(lambda: [r["completion_tokens"] for r in rows(database)] == [3])
        (row,) = rows(database)
        assert row["outcome"] is None
        assert row["first_token_at"] is not None


async def test_a_limit_is_told_in_headers_and_refused_with_429(
    keyed: KeyedGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await keyed(limits=RateLimits(rpm=2, tpm=10_000))
    for left in ("1", "0"):
        status, _, headers = await gateway.post(chat(stream=False), headers=BEARER)
        assert status == 200
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == left
        assert headers["x-ratelimit-limit-tokens"] == "10000"
    for path in ("/llm", "/v1/chat/completions"):
        status, answer, headers = await gateway.post(chat(), path, headers=BEARER)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "2 requests per minute" in answer["detail"]["msg"]
        assert 1 <= int(headers["Retry-After"]) <= 61
        assert headers["x-ratelimit-remaining-requests"] == "0"
    assert len(rows(database)) == len(engine.requests) == 2


async def test_a_stream_carries_the_limits_headers(
    keyed: KeyedGateway, engine: ScriptedEngine
) -> None:
    gateway = await keyed(limits=RateLimits(tpm=10_000))
    body = chat(stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=BEARER) as response:
        assert int(response.headers["x-ratelimit-remaining-tokens"]) < 10_000
        assert response.headers["x-ratelimit-reset-tokens"].endswith("s")
        await response.read()


async def test_a_spent_budget_is_its_own_error(keyed: KeyedGateway, engine: ScriptedEngine) -> None:
    gateway = await keyed(budget=600_000, budget_period="day", currency="USD")
    engine.script = Script(tokens=("a",) * 256, prompt_tokens=40)
    assert (await gateway.post(chat(), headers=BEARER))[0] == 200
    status, answer, headers = await gateway.post(chat(), headers=BEARER)
    assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
    assert 1 <= int(headers["Retry-After"]) <= 86_400


async def test_a_key_may_use_only_the_models_that_it_was_given(
    keyed: KeyedGateway, engine: ScriptedEngine
) -> None:
    gateway = await keyed(models=("another",))
    status, answer, _ = await gateway.post(chat(), headers=BEARER)
    assert (status, answer["error"]["code"]) == (403, "model_not_allowed")
    assert engine.requests == []


async def test_a_revoked_key_opens_no_request_not_even_within_its_second(
    keyed: KeyedGateway, store: Store
) -> None:
    gateway = await keyed()
    assert (await gateway.post(chat(), headers=BEARER))[0] == 200
    with store.write() as connection:
        keys.revoke(connection, "key_secret", now_ms())
    status, answer, headers = await gateway.post(chat(), headers=BEARER)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert headers["WWW-Authenticate"] == "Bearer"

    async def listed() -> int:
        return (await gateway.get("/v1/models", headers=BEARER))[0]

    async with asyncio.timeout(5):
        while await listed() != 401:
            await asyncio.sleep(0.05)


async def test_static_keys_work_beside_the_stores(
    start_gateway: StartGateway,
    engine: ScriptedEngine,
    store: Store,
    database: sqlite3.Connection,
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "fixed"})
    make_key(store)
    for secret in ("fixed", "secret"):
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await gateway.post(chat(), headers=headers))[0] == 200
    assert (await gateway.post(chat(), headers={"Authorization": "Bearer other"}))[0] == 401
    assert [row["key_id"] for row in rows(database)] == ["static-1", "key_secret"]


async def test_the_first_key_that_is_made_closes_the_door(
    gateway: Gateway, store: Store, database: sqlite3.Connection
) -> None:
    assert (await gateway.post(chat()))[0] == 200
    make_key(store)
    assert (await gateway.post(chat(), headers=BEARER))[0] == 200
    await gateway.until(lambda: not gateway.app.keyless)
    assert (await gateway.post(chat()))[0] == 401
    assert [row["key_id"] for row in rows(database)] == ["anonymous", "key_secret"]


async def test_while_the_store_is_locked_new_requests_wait_and_streams_finish(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine, store={"timeout": 0.3})
    engine.script = Script(tokens=("a", "b"), delay=0.3)
    async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
        await response.content.readline()
        database.execute("BEGIN EXCLUSIVE")
        status, answer, headers = await gateway.post(chat())
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        assert headers["Retry-After"]
        assert "[DONE]" in await response.text()
    ledger = gateway.app.ledger
    assert ledger is not None
    assert ledger.journalled == 1
    database.execute("ROLLBACK")
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["completion_tokens"]) == ("ok", 2)
    await gateway.until(lambda: ledger.journalled == 0)
    assert (await gateway.post(chat()))[0] == 200


DYING = """
import os, sys
from reverie.store.gateways import this_process
from reverie.gateway.accounts.journal import Journal, directory
from reverie.store.settlements import Settlement
journal = Journal(directory(sys.argv[1]), durable=False)
journal.append(Settlement(id=int(sys.argv[2]), outcome="ok", completion_tokens=3, ended_at=1))
print(this_process(), flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


async def test_what_a_neighbour_wrote_into_its_journal_before_it_died_is_not_given_up(
    keyed: KeyedGateway,
    store: Store,
    database: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reverie.gateway.accounts.ledger._REAP_EVERY", 1)
    gateway = await keyed()
    row = 99 << 40
    dying = [sys.executable, "-c", DYING, store.settings.url, str(row)]
    neighbour = await asyncio.create_subprocess_exec(
        *dying, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert neighbour.stdout is not None
    process = {"process": (await neighbour.stdout.readline()).decode().strip()}
    with store.write() as connection:
        number = gateways.register(connection, now_ms())
        connection.execute(update(schema.gateways).filter_by(id=number).values(process))
        reserve(connection, [request(row, "key_secret")], number)
    await neighbour.communicate(b"")  # it dies at the end of its input
    closed = await closed_row(gateway, database)
    assert (closed["outcome"], closed["completion_tokens"]) == ("ok", 3)


@pytest.mark.usefixtures("_often")
async def test_a_row_that_was_opened_after_its_request_had_failed_is_closed_in_the_end(
    keyed: KeyedGateway,
    engine: ScriptedEngine,
    store: Store,
    database: sqlite3.Connection,
) -> None:
    """As by a commit that a slow store brought about once nobody waited for it any more."""
    gateway = await keyed(limits=RateLimits(concurrency=2))
    assert gateway.app.ledger is not None
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    async with gateway.http.post(
        gateway.url + "/llm", json=chat(stream=True), headers=BEARER
    ) as running:
        await running.content.readany()
        forgotten = gateway.app.ledger.next_row()
        with store.write() as connection:
            reserve(connection, [request(forgotten, "key_secret")], gateway.app.ledger.gateway)
            connection.execute(update(schema.ledger).values(created_at=now_ms() - 61_000))
        await gateway.until(lambda: outcomes(database) == {forgotten: "lost"})
        engine.script = Script(tokens=("a",))
        assert (await gateway.post(chat(), headers=BEARER))[0] == 200  # there is room for it again
        engine.resume()
        assert b"[DONE]" in await running.content.read()
    assert sorted(outcomes(database).values()) == ["lost", "ok", "ok"]


async def test_an_answer_that_can_be_accounted_for_nowhere_is_not_completed(
    start_gateway: StartGateway,
    engine: ScriptedEngine,
    database: sqlite3.Connection,
    tmp_path: Path,
) -> None:
    gateway = await start_gateway(engine, store={"timeout": 0.2})
    (tmp_path / "state").write_text("a file where the journal's folder would be")
    engine.script = Script(tokens=("a", "b"), delay=0.2)
    async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
        await response.content.readline()
        database.execute("BEGIN EXCLUSIVE")
        text = await response.text()
    database.execute("ROLLBACK")
    assert "[DONE]" not in text
    last = json.loads(text.rstrip().rsplit("data: ", 1)[1])
    assert last["error"]["code"] == "overloaded"
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["cost"]) == ("failed", 0)


async def test_a_client_that_leaves_while_the_store_is_locked_leaves_no_open_row(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine, store={"timeout": 5})
    database.execute("BEGIN EXCLUSIVE")
    task = asyncio.create_task(gateway.post(chat()))
    ledger = gateway.app.ledger
    assert ledger is not None
    await gateway.until(lambda: len(gateway.app.in_flight) == 1)
    await asyncio.sleep(0.1)
    task.cancel()
    await gateway.until(lambda: len(gateway.app.in_flight) == 0)
    database.execute("ROLLBACK")
    assert (await gateway.post(chat()))[0] == 200
    await gateway.until(lambda: None not in [row["outcome"] for row in rows(database)])
    assert len(engine.requests) == 1


async def test_a_stop_closes_every_row(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine)
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    body = chat(stream=True)
    with contextlib.suppress(aiohttp.ClientError):
        async with gateway.http.post(gateway.url + "/llm", json=body) as response:
            await response.content.readline()
            gateway.server.stop()
            gateway.server.stop()
            await response.read()
    row = await closed_row(gateway, database)
    assert row["outcome"] == "failed"


async def test_without_a_store_nothing_is_recorded_and_everything_works(
    start_gateway: StartGateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    gateway = await start_gateway(engine, store={"url": "none"})
    assert (await gateway.post(chat()))[0] == 200
    assert rows(database) == []


# What fails beside the heartbeat ------------------------------------------------------------


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "HEARTBEAT_INTERVAL", 0.01)


def seen_at(database: sqlite3.Connection) -> int:
    ((seen,),) = database.execute("SELECT max(seen_at) FROM gateways")
    return int(seen)


async def leftovers_are_told_and_harm_nothing(gateway: Gateway) -> None:
    """A dead gateway's journal that can't be read keeps none from its work."""
    told = background.FAILURES["ledger leftovers"]
    await gateway.until(lambda: background.FAILURES["ledger leftovers"] > told + 5)
    assert (await gateway.get("/readyz"))[0] == 200


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize("step", ["_replay", "_take_over_journals", "_submit_checkpoints"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left"), RuntimeError("bug")])
async def test_the_heartbeat_goes_on_whatever_fails_beside_it(
    gateway: Gateway,
    database: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    failure: Exception,
) -> None:
    def fail(*_: object) -> Any:
        raise failure

    ledger = gateway.app.ledger
    assert ledger is not None
    with monkeypatch.context() as broken:
        broken.setattr(ledger, step, fail)
        if step == "_take_over_journals" and isinstance(failure, OSError):
            await leftovers_are_told_and_harm_nothing(gateway)
            return
        await gateway.until(lambda: background.failing() != [])
        status, answer, _ = await gateway.get("/readyz")
        assert (status, answer["failing"]) == (503, background.failing())
        before = seen_at(database)
        await gateway.until(lambda: seen_at(database) > before)
        assert ledger.healthy
    await gateway.until(lambda: background.failing() == [])
    assert (await gateway.get("/readyz"))[0] == 200
    _, metrics, _ = await gateway.get("/metrics")
    assert 'reverie_background_failures_total{task="ledger' in metrics


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize(
    "failure", [StoreFailure("locked"), OSError(5, "EIO"), ZeroDivisionError()]
)
async def test_a_gateway_whose_heartbeats_are_not_written_knows_that_it_counts_as_dead(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Everything else can be written, which doesn't make up for it."""

    def fail(*_: object) -> None:
        raise failure

    ledger = gateway.app.ledger
    assert ledger is not None
    monkeypatch.setattr(gateways, "DEAD_AFTER_MS", 200)
    await gateway.until(lambda: ledger.healthy)
    with monkeypatch.context() as broken:
        broken.setattr(gateways, "heartbeat", fail)
        await gateway.until(lambda: "ledger beat" in background.failing())
        status, answer, _ = await gateway.get("/readyz")
        assert (status, "ledger beat" in answer["failing"]) == (503, True)
        assert not ledger.healthy
        status, answer, headers = await gateway.post(chat())
        assert (status, answer["error"]["code"]) == (503, "overloaded")  # or its row would be lost
        assert headers["Retry-After"]
    await gateway.until(lambda: ledger.healthy)
    await gateway.until(lambda: background.failing() == [])
    assert (await gateway.get("/readyz"))[0] == 200
    assert (await gateway.post(chat()))[0] == 200


def unreadable_journal(store: Store) -> Path:
    """A journal that can't be read, however this process may read files."""
    path = directory(store.settings.url) / "0.jsonl"
    path.mkdir(parents=True)
    return path


@pytest.mark.usefixtures("_often")
async def test_a_neighbours_journal_that_can_not_be_read_keeps_nobody_from_its_work(
    keyed: KeyedGateway, store: Store, database: sqlite3.Connection
) -> None:
    unreadable = unreadable_journal(store)
    gateway = await keyed()  # it starts all the same
    with store.write() as connection:
        number = gateways.register(connection, now_ms())
        gone = {"process": "elsewhere 1 1", "seen_at": now_ms() - gateways.DEAD_AFTER_MS - 1}
        connection.execute(update(schema.gateways).filter_by(id=number).values(gone))
        reserve(connection, [request(99 << 40, "key_secret")], number)
    assert (await closed_row(gateway, database))["outcome"] == "lost"
    await leftovers_are_told_and_harm_nothing(gateway)
    unreadable.rmdir()


@pytest.mark.postgres
async def test_a_gateway_whose_clock_is_ahead_takes_no_neighbour_for_dead_and_no_limit_for_unused(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(StoreSettings(url=postgres_database))
    migrate(store)
    make_key(store, limits=RateLimits(rpm=1))
    ledger, ahead = Ledger(store), Ledger(store)
    await ledger.start()
    await ledger.reserve(request(ledger.next_row(), "key_secret"), RequestRecord("a", "/llm"))
    monkeypatch.setattr(ledger_module, "now_ms", lambda: now_ms() + 600_000)
    await ahead.start()
    with store.read() as connection:
        assert connection.scalars(select(schema.ledger.c.outcome)).all() == [None]
    with pytest.raises(RateLimitExceeded):
        await ahead.reserve(request(ahead.next_row(), "key_secret"), RequestRecord("b", "/llm"))
    await ahead.stop()
    await ledger.stop()
    store.close()


@pytest.mark.parametrize("jumps", [[60], [3600, -3600]])
async def test_after_a_silence_of_its_own_a_gateway_waits_for_its_neighbours_to_be_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jumps: list[int]
) -> None:
    """As when the store was down, the machine asleep, or the clock set."""
    monkeypatch.setattr(gateways, "HEARTBEAT_INTERVAL", 3600)
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/two.db"))
    migrate(store)
    make_key(store)
    later = 0
    monkeypatch.setattr(ledger_module, "clock_ms", lambda _: now_ms() + later)
    ledger, neighbour = Ledger(store), Ledger(store)
    await ledger.start()
    await neighbour.start()
    row = request(neighbour.next_row(), "key_secret")
    await neighbour.reserve(row, RequestRecord("a", "/llm"))

    def outcome_after(seconds: int, *, neighbour_lives: bool = False) -> str | None:
        nonlocal later
        later += seconds * 1000
        with store.write() as connection:
            ledger._write_heartbeat(connection, [frozenset()], False)
            if neighbour_lives:
                neighbour._write_heartbeat(connection, [None], False)
            found: str | None = connection.scalar(select(schema.ledger.c.outcome))
            return found

    for seconds in jumps:
        assert outcome_after(seconds) is None
    assert outcome_after(4, neighbour_lives=True) is None
    for _ in range(3):
        assert outcome_after(4) is None
    assert outcome_after(4) == "lost"  # it has been silent for 16 seconds
    await neighbour.stop()
    await ledger.stop()
    store.close()


async def test_a_journal_that_can_not_be_removed_does_not_keep_the_gateway_from_leaving(
    gateway: Gateway, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = gateway.app.ledger
    assert ledger is not None
    assert ledger._journal is not None

    def fail(count: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(ledger._journal, "done", fail)
    before = background.FAILURES["ledger journal"]
    await ledger.stop()
    assert background.FAILURES["ledger journal"] == before + 1
    ((ended,),) = database.execute("SELECT ended_at FROM gateways")
    assert ended is not None


async def test_a_request_that_the_server_cancels_is_not_billed_as_its_clients_leaving(
    gateway: Gateway, engine: ScriptedEngine, database: sqlite3.Connection
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    asking = asyncio.create_task(gateway.post(chat(stream=True)))
    await engine.wait_for(lambda e: e.stalled == 1)
    await asyncio.sleep(0.1)
    for task in asyncio.all_tasks():
        if "Cycle.run" in repr(task):
            task.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["completion_tokens"], row["cost"]) == ("failed", 1, 0)
    _, metrics, _ = await gateway.get("/metrics")
    assert re.search(
        r'reverie_requests_total\{model="m",outcome="stopped",status="\d+"\} 1.0', metrics
    )
    assert 'outcome="cancelled"' not in metrics


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
async def test_what_a_shutdown_cuts_is_free_and_is_not_its_clients_leaving(
    start_gateway: StartGateway,
    engine: ScriptedEngine,
    database: sqlite3.Connection,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
) -> None:
    caplog.set_level(logging.INFO)
    gateway = await start_gateway(engine, model=PRICED)
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    body = chat(stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as response:
        await response.content.readline()
        gateway.server.stop()
        gateway.server.stop()
        text = await response.text()
    assert '"code":"overloaded"' in text
    row = await closed_row(gateway, database)
    assert (row["outcome"], row["completion_tokens"], row["cost"]) == ("failed", 1, 0)
    lines = [r.__dict__["fields"] for r in caplog.records if r.name == "reverie.request"]
    assert {line["outcome"] for line in lines} == {"stopped"}
