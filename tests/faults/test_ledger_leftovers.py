"""Moments in which a row or a journal entry could be left behind, each of them brought about."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reverie.gateway.accounts.journal import Journal, left_behind
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.record import RequestRecord
from reverie.settings import StoreSettings
from reverie.store import gateways
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.reservations import ReservationRequest, reserve
from reverie.store.settlements import Settlement
from reverie.times import now_ms
from tests.faults.ledger_tools import rows_of

DIE_WHILE_WRITING = """
import os, resource, sys
from pathlib import Path
from reverie.gateway.accounts.journal import Journal
from reverie.store.settlements import Settlement
journal = Journal(Path(sys.argv[1]), durable=False)
journal.append(Settlement(id=1, outcome="ok", ended_at=1))
size = next(Path(sys.argv[1]).glob("*.jsonl")).stat().st_size
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, before[1]))
try:
    journal.append(Settlement(id=2, outcome="ok", ended_at=2))
except OSError:
    print("torn", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
journal.append(Settlement(id=3, outcome="ok", ended_at=3))
os.kill(os.getpid(), 9)
"""


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/reverie.db"))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    running = Ledger(store)
    await running.start()
    yield running
    await running.stop()


def request(id: int) -> ReservationRequest:
    return ReservationRequest(
        id=id,
        request_id=f"req_{id}",
        key_id="anonymous",
        stored=False,
        model="m",
        names=("m",),
        tokens=10,
        prompt_tokens=5,
        max_tokens=5,
        prompt_estimate=5,
        cost=0,
    )


def entry(id: int) -> Settlement:
    return Settlement(id=id, outcome="ok", ended_at=id)


def hold_up_until_opened(lock: sqlite3.Connection, store: Store) -> None:
    """Let the store's thread open the row, and nothing else happen."""
    lock.execute("ROLLBACK")
    while not rows_of(store):
        time.sleep(0.01)
    time.sleep(0.1)


async def test_a_client_that_leaves_in_the_moment_of_its_admission_leaves_no_open_row(
    ledger: Ledger, store: Store
) -> None:
    with contextlib.closing(sqlite3.connect(str(store.url.database))) as lock:
        lock.isolation_level = None
        lock.execute("BEGIN IMMEDIATE")
        asking = asyncio.create_task(
            ledger.reserve(request(ledger.next_row()), RequestRecord("r", "/llm"))
        )
        await asyncio.sleep(0.2)  # it is at the lock by now
        hold_up_until_opened(lock, store)
    await asyncio.sleep(0)  # the store's answer is taken in this turn, and so is the leaving
    assert not asking.done()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(10):
        while rows_of(store)[0].outcome != "failed":
            await asyncio.sleep(0.01)


def test_rows_that_a_gateway_left_open_at_its_orderly_end_are_closed_by_another(
    store: Store,
) -> None:
    long_ago = now_ms() - gateways.DEAD_AFTER_MS - 1
    with store.write() as connection:
        ended = gateways.register(connection, long_ago)
        reserve(connection, [request(1)], ended)
        gateways.leave(connection, ended, long_ago)
        other = gateways.register(connection, now_ms())
        assert gateways.reap_dead(connection, other, now_ms()) == 1
        assert gateways.reap_dead(connection, other, now_ms()) == 0
    assert [row.outcome for row in rows_of(store)] == ["lost"]


def test_an_entry_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    child = [sys.executable, "-c", DIE_WHILE_WRITING, str(tmp_path)]
    said = subprocess.run(child, capture_output=True, text=True, check=False).stdout
    assert said == "torn\n"
    with left_behind(tmp_path) as entries:
        assert [found.id for found in entries] == [1, 3]


def test_a_journal_that_goes_while_it_is_looked_for_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")  # listed, and not there
    with left_behind(tmp_path) as entries:
        assert entries == []


def test_a_journal_is_not_taken_for_left_behind_while_it_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others_found = fcntl.flock, []

    def lock_a_moment_later(file: int, operation: int) -> None:
        if not operation & fcntl.LOCK_NB:
            with left_behind(tmp_path) as entries:  # another gateway starts just now
                others_found.append(entries)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_a_moment_later)
    journal = Journal(tmp_path, durable=False)
    journal.append(entry(1))
    assert others_found == [[]]
    (file,) = tmp_path.glob("*.jsonl")
    assert b'"id":1' in file.read_bytes()
    journal.done(1)
    assert list(tmp_path.iterdir()) == []
