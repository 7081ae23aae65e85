"""``reverie prune``, as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from reverie.settings import StoreSettings
from reverie.store import gateways
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.times import DAY_MS, now_ms
from tests.cli.command import Run, in_process
from tests.cli.killed import kill_in_the_midst
from tests.store.ledger_helpers import ask, close, make_key, request, rows, settled


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Three requests of 30 days ago, and two of today."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("REVERIE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/one.db"
    monkeypatch.setenv("REVERIE_STORE_URL", url)
    opened = Store(StoreSettings(url=url, timeout=10))
    migrate(opened)
    make_key(opened)
    ask(opened, *(request(number) for number in range(1, 6)))
    close(opened, *(settled(number) for number in range(1, 6)))
    with opened.write() as connection:
        connection.execute(
            update(schema.ledger)
            .where(schema.ledger.c.id < 4)
            .values(created_at=now_ms() - 30 * DAY_MS)
        )
    yield opened
    opened.close()


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(monkeypatch, capsys, "prune")


def test_it_says_what_would_go_and_then_it_goes(store: Store, run: Run) -> None:
    told = run("--requests", "20d", "--dry-run")
    assert told == (0, "would remove 3 requests and 0 keys\n", "")
    assert len(rows(store)) == 5
    assert run("--requests", "20d") == (0, "removed 3 requests and 0 keys\n", "")
    assert [row.id for row in rows(store)] == [4, 5]
    assert run("--requests", "20d") == (0, "removed 0 requests and 0 keys\n", "")
    (day,) = rows(store, "usage_daily")
    assert day.requests == 5


def test_the_configuration_says_for_how_long_and_by_default_for_ever(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said, _ = run()
    assert status == 0
    assert said.splitlines() == [
        "removed 0 requests and 0 keys",
        "requests are kept for ever: give --requests, or set store.keep_requests",
    ]
    monkeypatch.setenv("REVERIE_STORE_KEEP_REQUESTS", "20d")
    assert run() == (0, "removed 3 requests and 0 keys\n", "")


def test_keys_that_ended_go_if_nothing_was_used_with_them(store: Store, run: Run) -> None:
    for name in ("unused", "newest"):
        make_key(store, name)
    with store.write() as connection:
        connection.execute(update(schema.keys).values(revoked_at=now_ms() - 40 * DAY_MS))
        connection.execute(
            update(schema.keys).where(schema.keys.c.id == "newest").values(created_at=2**50)
        )
    status, said, _ = run("--keys", "30d", "--json")
    assert status == 0
    assert json.loads(said) == {"removed": True, "requests": 0, "keys": 1, "freed": 0}
    assert {key.id for key in rows(store, "keys")} == {"key_a", "newest"}


@pytest.mark.parametrize("age", ["1d", "20", "0d", "20h", "soon", "-3d"])
def test_an_age_that_makes_no_sense_is_refused_by_name(store: Store, run: Run, age: str) -> None:
    status, _, said = run("--requests", age)
    assert status == 2
    assert "--requests" in said
    assert "400d" in said
    assert len(rows(store)) == 5


def test_space_is_given_back_to_the_disk(store: Store, run: Run) -> None:
    status, said, _ = run("--requests", "20d", "--vacuum")
    assert (status, said.splitlines()[1][:5]) == (0, "gave ")


def test_where_space_can_not_be_given_back_nothing_is_removed(store: Store, run: Run) -> None:
    with store.write() as connection:
        gateways.register(connection, now_ms())
    status, _, said = run("--requests", "20d", "--vacuum")
    assert status == 1
    assert "one gateway runs on it; stop every server first" in said
    assert len(rows(store)) == 5


@pytest.mark.integration
def test_a_command_that_is_killed_leaves_a_store_that_can_be_pruned_again(
    store: Store, run: Run
) -> None:
    with store.write() as connection:
        row = dict(connection.execute(select(schema.ledger).limit(1)).one()._mapping)
        connection.execute(
            insert(schema.ledger), [{**row, "id": number} for number in range(10, 2010)]
        )
    kill_in_the_midst("prune", "--requests", "20d", batches=2)
    left = len(rows(store))
    assert 2 < left < 2005
    status, said, _ = run("--requests", "20d")
    assert (status, said) == (0, f"removed {left - 2} requests and 0 keys\n")
    assert [row.id for row in rows(store)] == [4, 5]
