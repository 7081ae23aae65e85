"""A server that removes old requests by itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from reverie import background
from reverie.gateway.accounts import retention
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.accounts.retention import Retention
from reverie.settings import StoreSettings
from reverie.store import gateways
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.testing import ScriptedEngine
from reverie.times import DAY_MS, now_ms
from tests.harness import StartGateway
from tests.store.ledger_helpers import ask, close, make_key, request, rows, settled


def open_store(folder: Path, kept: str) -> Store:
    settings = StoreSettings(url=f"sqlite:///{folder}/reverie.db", timeout=10, keep_requests=kept)
    store = Store(settings)
    migrate(store)
    return store


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, "10d")
    make_key(opened)
    yield opened
    opened.close()


def put(store: Store, count: int, days: int, first: int = 1) -> None:
    numbers = range(first, first + count)
    ask(store, *(request(number) for number in numbers))
    close(store, *(settled(number) for number in numbers))
    with store.write() as connection:
        connection.execute(
            update(schema.ledger)
            .where(schema.ledger.c.id >= first)
            .values(created_at=now_ms() - days * DAY_MS)
        )


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_older_than_configured_goes_while_the_server_runs(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, 700, 11)
    put(store, 5, 9, first=1000)
    ledger = Ledger(store)
    await ledger.start()
    keeping = Retention(store, ledger)
    with caplog.at_level("INFO", "reverie.store"):
        keeping.start()
        await until(lambda: any("were removed" in record.message for record in caplog.records))
    assert [row.id for row in rows(store)] == list(range(1000, 1005))
    assert sum(day.requests for day in rows(store, "usage_daily")) == 705
    (record,) = [one for one in caplog.records if "were removed" in one.message]
    assert record.__dict__["fields"] == {"count": 700, "kept_days": 10}
    await keeping.stop()
    await ledger.stop()


async def test_a_server_does_it_as_its_configuration_says(
    tmp_path: Path, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    old = open_store(tmp_path, "10d")  # the store that the server finds
    make_key(old)
    put(old, 3, 11)
    await start_gateway(engine, store={"keep_requests": "10d"})
    await until(lambda: not rows(old))
    old.close()


async def test_it_goes_on_round_after_round(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.start()
    keeping = Retention(store, ledger, every=0.01)
    keeping.start()
    for first in (1, 100, 200):
        put(store, 3, 11, first)
        await until(lambda: not rows(store))
    await keeping.stop()
    await ledger.stop()


async def test_one_of_several_gateways_does_it(store: Store, tmp_path: Path) -> None:
    first, second = Ledger(store), Ledger(store)
    await first.start()
    await second.start()
    put(store, 3, 11)
    later = Retention(store, second, every=0.01)
    later.start()
    is_its_turn = later._is_its_turn
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return is_its_turn()

    later._is_its_turn = count  # type: ignore[method-assign]
    await until(lambda: asked > 3)
    assert len(rows(store)) == 3
    await first.stop()
    await until(lambda: not rows(store))  # the other does it now
    await later.stop()
    await second.stop()


YEAR = 365 * DAY_MS


class Clock:
    """A clock that can be set, for the retention alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        self.passed = 0.0
        monkeypatch.setattr(retention, "now_ms", lambda: now_ms() + self.ahead)
        monkeypatch.setattr(retention, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_clock_that_goes_forward_by_years_removes_nothing_for_a_day(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, 3, 1)
    ledger = Ledger(store)
    await ledger.start()
    keeping = Retention(store, ledger)
    await keeping._round()
    clock.ahead = 2 * YEAR
    for _ in range(3):
        clock.passed += 3600
        await keeping._round()
    assert len(rows(store)) == 3
    assert [one.message for one in caplog.records if "the clock" in one.message] == [
        "nothing old is removed for a day: the clock went forward, or no gateway ran"
    ]
    clock.passed += 86_400
    clock.ahead += 86_400_000
    await keeping._round()  # it was meant so
    assert rows(store) == []
    await ledger.stop()


async def test_a_server_that_starts_with_a_clock_years_ahead_removes_nothing(
    store: Store, clock: Clock
) -> None:
    put(store, 3, 1)
    with store.write() as connection:  # as of the last time that it ran
        before = gateways.register(connection, now_ms())
        gateways.leave(connection, before, now_ms())
    ledger = Ledger(store)
    await ledger.start()
    clock.ahead = 2 * YEAR
    await Retention(store, ledger)._round()
    assert len(rows(store)) == 3
    await ledger.stop()


async def test_a_clock_that_goes_back_removes_nothing_and_is_no_matter_later(
    store: Store, clock: Clock
) -> None:
    put(store, 3, 11)
    ledger = Ledger(store)
    await ledger.start()
    keeping = Retention(store, ledger)
    clock.ahead = -50 * YEAR
    await keeping._round()
    assert len(rows(store)) == 3
    clock.ahead = 0
    await keeping._round()  # forward by fifty years, as far as it can tell
    assert len(rows(store)) == 3
    clock.passed += 86_400
    clock.ahead += 86_400_000
    await keeping._round()
    assert rows(store) == []
    await ledger.stop()


async def test_it_waits_while_requests_want_the_store_but_not_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(store)
    await ledger.start()
    put(store, 3, 11)
    looks = 0

    def busy(_: Ledger) -> bool:
        nonlocal looks
        looks += 1
        return True

    monkeypatch.setattr(Ledger, "busy", property(busy))
    monkeypatch.setattr(retention, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(retention, "_LOOKS", 10**9)
    keeping = Retention(store, ledger)
    keeping.start()
    await until(lambda: looks > 20)
    assert len(rows(store)) == 3
    await keeping.stop()

    monkeypatch.setattr(retention, "_LOOKS", 5)
    keeping = Retention(store, ledger)
    keeping.start()
    await until(lambda: not rows(store))
    await keeping.stop()
    await ledger.stop()


async def test_it_rests_for_longer_than_it_works(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = 0.02
    steps: list[tuple[float, float]] = []

    class Pruner:
        def __init__(self, *_: object) -> None: ...

        def step(self) -> int | None:
            began = time.monotonic()
            time.sleep(work)
            steps.append((began, time.monotonic()))
            return None if len(steps) == 3 else 1

    monkeypatch.setattr(retention, "RequestPruner", Pruner)
    ledger = Ledger(store)
    await ledger.start()
    keeping = Retention(store, ledger)
    keeping.start()
    await until(lambda: len(steps) == 3)
    rests = [after[0] - before[1] for before, after in itertools.pairwise(steps)]
    assert min(rests) > 5 * work
    await keeping.stop()
    await ledger.stop()


async def test_nothing_goes_where_nothing_is_configured(tmp_path: Path) -> None:
    forever = open_store(tmp_path, "forever")
    make_key(forever)
    put(forever, 3, 3000)
    ledger = Ledger(forever)
    await ledger.start()
    keeping = Retention(forever, ledger, every=0.01)
    keeping.start()
    await asyncio.sleep(0)
    assert "retention rounds" not in {task.get_name() for task in asyncio.all_tasks()}
    assert len(rows(forever)) == 3
    await keeping.stop()
    await ledger.stop()
    forever.close()


async def test_a_store_that_fails_is_told_of_and_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 3, 11)
    ledger = Ledger(store)
    await ledger.start()
    failing = True
    step = retention.RequestPruner.step

    def sometimes(self: retention.RequestPruner) -> int | None:
        if failing:
            raise OSError("its disk is full")
        return step(self)

    monkeypatch.setattr(retention.RequestPruner, "step", sometimes)
    before = background.FAILURES["retention"]
    keeping = Retention(store, ledger, every=0.01)
    keeping.start()
    await until(lambda: background.FAILURES["retention"] >= before + 4)
    assert "retention" not in background.failing()  # requests can be served without it
    failing = False
    await until(lambda: not rows(store))
    await keeping.stop()
    await ledger.stop()
