"""Old rows go, and nothing that anybody is told changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import delete, insert, update

from reverie.errors import UpkeepError
from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import KeyChanges, KeyNotFound
from reverie.settings import StoreSettings
from reverie.store import answers, gateways, keys, tags, usage, windows
from reverie.store.answers import Claim
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.history import last_requests
from reverie.store.limits import WindowSums
from reverie.store.reservations import Granted
from reverie.store.settlements import LedgerOutcome
from reverie.store.upkeep import prune as prune_module
from reverie.store.upkeep.prune import (
    Prunable,
    RequestPruner,
    give_space_back,
    prunable,
    prune_gateways,
    prune_keys,
)
from reverie.store.usage import DIMENSIONS, UsageGroup, UsageQuery
from reverie.times import DAY_MS, day_of, now_ms
from tests.store.ledger_helpers import GATEWAY, ask, close, make_key, request, rows, settled

_OUTCOMES: tuple[LedgerOutcome, ...] = ("ok", "length", "cancelled", "failed", "lost")


def prune(store: Store, before: int) -> int:
    pruner = RequestPruner(store, before)
    removed = 0
    while (count := pruner.step()) is not None:
        removed += count
    return removed


def reports(store: Store) -> list[list[UsageGroup] | None]:
    """Every report that there is, by one dimension and by two, of all and of parts."""
    wide: dict[str, Any] = {"since": 0, "until": day_of(now_ms()) + 1}
    by = [(one,) for one in DIMENSIONS] + list(itertools.permutations(DIMENSIONS, 2))
    queries = [UsageQuery(by=dimensions, **wide) for dimensions in by]
    queries += [UsageQuery(by=("day",), key=key, **wide) for key in ("key_a", "key_b", "key_c")]
    queries += [UsageQuery(by=("key",), model="m1", **wide), UsageQuery(tag="even", **wide)]
    with store.read() as connection:
        return [usage.groups(connection, query) for query in queries]


def budgets(store: Store) -> dict[str, int]:
    now = now_ms()
    with store.read() as connection:
        found = keys.by_ids(connection, ["key_a", "key_b", "key_c"])
        return usage.spent(connection, list(found.values()), now)


def limits(store: Store) -> dict[str, WindowSums]:
    with store.read() as connection:
        subjects = [f"key:key_{name}" for name in "abc"] + ["model:m0", "model:m1"]
        return windows.sums(connection, subjects, now_ms() // 1000)


requests = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["m0", "m1"]),
        st.integers(0, 40),  # days ago
        st.sampled_from([*_OUTCOMES, None]),
        st.integers(0, 50),
        st.integers(0, 50),
        st.sampled_from([1, 2, 3]),  # its gateway
    ),
    max_size=25,
)


def fill(store: Store) -> Store:
    make_key(store, "key_a", budget=10**9, budget_period="day", currency="USD")
    make_key(store, "key_b", budget=10**9, budget_period="month", currency="USD")
    make_key(store, "key_c")
    with store.write() as connection:
        tags.set_tags(connection, "key_b", ["even", "prod"])
        tags.set_tags(connection, "key_c", ["prod"])
    return store


@pytest.fixture
def filled(store: Store) -> Store:
    return fill(store)


@pytest.fixture
def filled_sqlite(tmp_path: Path) -> Iterator[Store]:
    """On SQLite, where hypothesis may try much; the statements are the same."""
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/store.db", timeout=10))
    migrate(opened)
    yield fill(opened)
    opened.close()


@given(made=requests, days=st.lists(st.integers(2, 41), min_size=1, max_size=3))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_report_limit_or_budget_changes(filled_sqlite: Store, made: Any, days: Any) -> None:
    store = filled_sqlite
    with store.write() as connection:
        for table in (schema.ledger, schema.usage_daily, schema.limit_windows):
            connection.execute(table.delete())
    now = now_ms()
    old = []
    for number, (key, model, ago, outcome, prompt, completion, gateway) in enumerate(made, 1):
        row = gateway << 40 | number
        at = now - ago * DAY_MS
        ask(store, request(row, f"key_{key}", model=model, names=(model,), cost=5000))
        with store.write() as connection:  # as if it had been asked then
            connection.execute(
                update(schema.ledger).where(schema.ledger.c.id == row).values(created_at=at)
            )
        if outcome is not None:
            close(store, settled(row, outcome, prompt=prompt, completion=completion))
            old.append(at)
    before = reports(store), budgets(store), limits(store)
    for kept in days:
        limit = now - kept * DAY_MS
        prune(store, limit)
        assert (reports(store), budgets(store), limits(store)) == before
    oldest = now - min(days) * DAY_MS
    assert len(rows(store)) == len(made) - sum(at < oldest for at in old)
    # What is open is settled as ever.
    for row in rows(store):
        if row.outcome is None:
            close(store, settled(row.id, prompt=3, completion=4))
    assert sum(day.requests for day in rows(store, "usage_daily")) == len(made)


def put(store: Store, *ages: float, gateway: int = GATEWAY, first: int = 1, **fields: Any) -> None:
    """Closed requests of a gateway that are so many days old, in this order."""
    at = now_ms()
    for number, age in enumerate(ages, first):
        row = gateway << 40 | number
        ask(store, request(row, **fields))
        close(store, settled(row))
        with store.write() as connection:
            connection.execute(
                update(schema.ledger)
                .where(schema.ledger.c.id == row)
                .values(created_at=at - int(age * DAY_MS))
            )


def days_ago(days: float) -> int:
    return now_ms() - int(days * DAY_MS)


def test_old_requests_of_every_gateway_go_and_reports_stay(filled: Store) -> None:
    put(filled, 30, 20, 11, 9, 1, gateway=3)
    put(filled, 25, 12, gateway=4)
    put(filled, 5, gateway=5)
    before = reports(filled), budgets(filled), limits(filled)
    with filled.read() as connection:
        assert prunable(connection, days_ago(10), 0).requests == 5
    assert prune(filled, days_ago(10)) == 5
    assert {row.id for row in rows(filled)} == {3 << 40 | 4, 3 << 40 | 5, 5 << 40 | 1}
    assert (reports(filled), budgets(filled), limits(filled)) == before
    assert prune(filled, days_ago(10)) == 0


def test_more_than_a_batch_goes_in_several_steps(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.store.upkeep.prune.BATCH", 3)
    put(filled, *[20] * 8, 1, 1, 1, 1)
    pruner = RequestPruner(filled, days_ago(10))
    assert [pruner.step() for _ in range(5)] == [3, 3, 2, None, None]
    assert len(rows(filled)) == 4


def test_an_old_request_goes_though_it_was_numbered_after_a_newer_one(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock may have been set back."""
    monkeypatch.setattr("reverie.store.upkeep.prune.BATCH", 2)
    put(filled, 10.01, 9.99, 9.99, 10.01)
    assert prune(filled, days_ago(10)) == 2
    assert {row.id & 0xFF for row in rows(filled)} == {2, 3}


def test_what_runs_and_what_an_answer_is_kept_of_stays(filled: Store) -> None:
    claimed = {"claim": Claim(key="again", fingerprint=b"1" * 32)}
    put(filled, 20)
    ask(filled, request(GATEWAY << 40 | 2), request(GATEWAY << 40 | 3, **claimed))
    close(filled, structs.replace(settled(GATEWAY << 40 | 3), answer=b"text"))
    with filled.write() as connection:
        connection.execute(update(schema.ledger).values(created_at=days_ago(20)))
    assert prune(filled, days_ago(10)) == 1
    assert {row.id & 0xFF for row in rows(filled)} == {2, 3}
    again = {("key_a", "again"): Claim(key="again", fingerprint=b"1" * 32)}
    with filled.read() as connection:
        (found,) = answers.find(connection, again, 0).values()
        assert found is not None
        assert answers.body(connection, GATEWAY << 40 | 3) == b"text"


def test_a_settlement_that_comes_after_its_row_has_gone_does_no_harm(filled: Store) -> None:
    put(filled, 20)
    before = reports(filled)
    prune(filled, days_ago(10))
    close(filled, settled(GATEWAY << 40 | 1, prompt=999))
    assert reports(filled) == before


def test_the_list_of_last_requests_goes_on_where_it_ends(filled: Store) -> None:
    with filled.write() as connection:
        number = gateways.register(connection, now_ms())
    put(filled, 20, 15, 3, 1, gateway=number)
    prune(filled, days_ago(10))
    with filled.read() as connection:
        found = last_requests(connection, 10)
    assert [one.id & 0xFF for one in found] == [4, 3]


def test_keys_that_ended_long_ago_go_unless_a_report_names_them(store: Store) -> None:
    ended = {"revoked_at": days_ago(100)}
    made: dict[str, dict[str, int]] = {
        "revoked": ended,
        "expired": {"expires_at": days_ago(100)},
        "used": ended,
        "running": ended,
        "lately": {"revoked_at": days_ago(10)},
        "active": {},
        "newest": ended,
    }
    for name in made:
        make_key(store, name)
        with store.write() as connection:
            tags.set_tags(connection, name, [f"of-{name}"])
    put(store, 99, key="used")
    ask(store, request(GATEWAY << 40 | 9, "running"))
    with store.write() as connection:
        for number, (name, values) in enumerate(made.items()):
            key = schema.keys.c.id == name
            connection.execute(update(schema.keys).where(key).values(created_at=number, **values))
    before = reports(store)
    with store.read() as connection:
        assert prunable(connection, 0, days_ago(30)).keys == 2
    assert prune_keys(store, days_ago(30)) == 2
    assert prune_keys(store, days_ago(30)) == 0
    left = {"used", "running", "lately", "active", "newest"}
    assert {key.id for key in rows(store, "keys")} == left
    assert {tag.key_id for tag in rows(store, "key_tags")} == left
    assert reports(store) == before


@pytest.mark.postgres
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_key_that_is_prolonged_at_that_moment_does_not_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(store, expires_at=days_ago(30))
    make_key(store, "key_newest")
    changes = KeyChanges(name="team", expires_at="30d")
    failed: list[KeyNotFound] = []

    def prolong() -> None:
        try:
            with store.write() as connection:
                key_service.update(connection, key.id, changes, now_ms())
        except KeyNotFound as failure:
            failed.append(failure)

    prolonging = threading.Thread(target=prolong)

    def delete_a_moment_later(table: Any) -> Any:
        monkeypatch.undo()
        prolonging.start()
        prolonging.join(0.5)
        return delete(table)

    monkeypatch.setattr(prune_module, "delete", delete_a_moment_later)
    prune_keys(store, days_ago(10))
    prolonging.join()
    assert failed or len(rows(store, "keys")) == 2  # whoever prolongs it is told


def test_a_store_whose_only_key_has_ended_still_wants_one(store: Store) -> None:
    make_key(store, "only")
    with store.write() as connection:
        connection.execute(update(schema.keys).values(revoked_at=1))
    assert prune_keys(store, now_ms()) == 0
    with store.read() as connection:
        assert keys.any_exists(connection)


def test_gateways_without_requests_are_forgotten_and_no_number_is_given_twice(
    filled: Store,
) -> None:
    with filled.write() as connection:
        numbers = [gateways.register(connection, days_ago(50)) for _ in range(4)]
        for number in (numbers[0], numbers[1], numbers[3]):
            gateways.leave(connection, number, days_ago(40))
    put(filled, 1, gateway=numbers[1])
    assert prune_gateways(filled, days_ago(30)) == 1
    assert {one.id for one in rows(filled, "gateways")} == set(numbers[1:])
    with filled.write() as connection:
        assert gateways.register(connection, now_ms()) > numbers[3]


def test_nothing_is_old_where_all_is_kept(filled: Store) -> None:
    put(filled, 3000)
    with filled.read() as connection:
        assert prunable(connection, 0, 0) == Prunable(0, 0, 0)
    assert prune(filled, 0) == 0


def test_space_goes_back_to_the_disk(filled: Store) -> None:
    with filled.write() as connection:
        day = dict.fromkeys((*usage.COUNTS, "cost"), 1)
        connection.execute(
            insert(schema.usage_daily),
            [
                {**day, "key_id": "k" * 50, "day": n, "model": "m", "currency": "USD"}
                for n in range(3000)
            ],
        )
    with filled.write() as connection:
        connection.execute(schema.usage_daily.delete())
    if filled.path is None:
        with pytest.raises(UpkeepError, match="autovacuum"):
            give_space_back(filled)
        return
    assert give_space_back(filled) > 100_000
    assert isinstance(ask(filled, request(1))[0], Granted)
