"""A row is closed once, with what happened, and the day's sums agree with the rows."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, get_args

import pytest
from msgspec import structs

from reverie.errors import RateLimitExceeded
from reverie.money import Price
from reverie.store import answers, keys, reservations
from reverie.store.answers import Claim
from reverie.store.database.engine import Store
from reverie.store.limits import RateLimits
from reverie.store.reservations import Granted
from reverie.store.settlements import (
    Amendment,
    Checkpoint,
    LedgerOutcome,
    Settlement,
    amend,
    checkpoint,
    close_lost,
)
from reverie.times import now_ms
from tests.store.ledger_helpers import GATEWAY, ask, close, make_key, request, rows, settled

BUDGET = {"budget": 100, "budget_period": "day", "currency": "USD"}
SUMMED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")


@pytest.fixture(autouse=True)
def key(store: Store) -> None:
    make_key(store)


def totals(store: Store) -> dict[str, int]:
    """The day's sums, summed up."""
    summed = [row._mapping for row in rows(store, "usage_daily")]
    return {name: sum(row[name] for row in summed) for name in SUMMED}


def from_ledger(store: Store) -> dict[str, int]:
    closed: list[Any] = [row for row in rows(store) if row.outcome is not None]
    sums = {name: sum(getattr(row, name) for row in closed) for name in SUMMED[1:]}
    return {"requests": len(closed), **sums}


def test_a_complete_answer_costs_what_it_used_at_the_prices_of_its_request(store: Store) -> None:
    ask(store, request(1, price=Price(10, 1, 100, "USD")))
    close(
        store,
        Settlement(
            id=1,
            outcome="length",
            prompt_tokens=50,
            cached_tokens=30,
            completion_tokens=7,
            backend="b",
            first_token_at=5,
            ended_at=9,
        ),
    )
    (row,) = rows(store)
    assert row.cost == 20 * 10 + 30 * 1 + 7 * 100
    assert (row.outcome, row.backend, row.first_token_at, row.ended_at) == ("length", "b", 5, 9)
    assert totals(store) == from_ledger(store)


@pytest.mark.parametrize("outcome", get_args(LedgerOutcome))
def test_what_was_delivered_is_billed_and_what_failed_is_not(
    store: Store, outcome: LedgerOutcome
) -> None:
    ask(store, request(1))
    close(store, settled(1, outcome))
    (row,) = rows(store)
    assert (row.cost > 0) == (outcome in ("ok", "length", "cancelled"))
    assert row.completion_tokens == 10
    assert totals(store) == from_ledger(store)


def test_a_settlement_that_comes_twice_counts_once(store: Store) -> None:
    ask(store, request(1))
    close(store, settled(1), settled(1))
    close(store, settled(1, completion=99), settled(1, "failed"))
    (row,) = rows(store)
    assert (row.outcome, row.completion_tokens) == ("ok", 10)
    assert totals(store)["requests"] == 1
    assert totals(store) == from_ledger(store)


def test_a_settlement_without_a_row_changes_nothing(store: Store) -> None:
    close(store, settled(404))
    assert rows(store) == []
    assert rows(store, "usage_daily") == []


def test_a_row_that_was_given_up_still_learns_the_truth_and_the_sums_follow(store: Store) -> None:
    ask(store, request(1), request(2))
    with store.write() as connection:
        assert close_lost(connection, GATEWAY, 1) == 2
    assert {row.outcome for row in rows(store)} == {"lost"}
    close(store, settled(1))
    close(store, settled(1, "failed"))
    assert sorted(row.outcome for row in rows(store)) == ["lost", "ok"]
    (day,) = rows(store, "usage_daily")
    assert (day.requests, day.lost, day.failed) == (2, 1, 0)
    assert totals(store) == from_ledger(store)


def test_the_truth_on_a_lost_row_gives_no_limit_back_twice(store: Store) -> None:
    make_key(store, "limited", limits=RateLimits(tpm=240))
    ask(store, request(1, "limited"), request(2, "limited"))
    with store.write() as connection:
        checkpoint(connection, [Checkpoint(1, 40, 3, 111)])
    with store.write() as connection:
        close_lost(connection, GATEWAY, now_ms())
    close(store, settled(1), settled(2))  # 100 tokens were used by both
    granted, refused = ask(store, request(3, "limited"), request(4, "limited"))
    assert isinstance(granted, Granted)
    assert granted.rate is not None
    assert granted.rate.remaining_tokens == 40
    assert isinstance(refused, RateLimitExceeded)


def test_of_a_lost_request_and_its_retry_one_is_billed(store: Store) -> None:
    claim = Claim("once", b"f")
    ask(store, request(1, claim=claim), request(2, claim=Claim("other", b"f")))
    with store.write() as connection:
        close_lost(connection, GATEWAY, 1)
    ask(store, request(3, claim=claim))
    close(store, settled(3))
    close(store, settled(1), settled(2))  # their gateway's journal turns up
    closed = {row.id: row for row in rows(store)}
    assert {id: row.outcome for id, row in closed.items()} == {1: "lost", 2: "ok", 3: "ok"}
    assert (closed[1].cost, closed[1].completion_tokens) == (0, 10)
    assert totals(store) == from_ledger(store)


def test_of_a_lost_request_and_its_retry_one_is_billed_however_late_it_is_found(
    store: Store,
) -> None:
    """Claims are forgotten after a day."""
    claim = Claim("once", b"f")
    ask(store, request(1, claim=claim))
    with store.write() as connection:
        close_lost(connection, GATEWAY, now_ms())
    ask(store, request(2, claim=claim))
    close(store, settled(2))
    with store.write() as connection:
        answers.sweep(connection, now_ms() + 1)
    close(store, settled(1))
    assert {row.id: row.outcome for row in rows(store)} == {1: "lost", 2: "ok"}
    assert totals(store) == from_ledger(store)


@pytest.mark.postgres
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_of_a_lost_request_and_its_retry_one_is_billed_if_both_come_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One gateway takes the claim over while another settles the row that had it."""
    claim = Claim("once", b"f")
    ask(store, request(1, claim=claim))
    with store.write() as connection:
        close_lost(connection, GATEWAY, now_ms())
    late = threading.Thread(target=close, args=(store, settled(1)))
    find = answers.find

    def find_just_before_the_settlement(*given: Any) -> Any:
        found = find(*given)
        late.start()
        late.join(0.5)
        return found

    monkeypatch.setattr(answers, "find", find_just_before_the_settlement)
    ask(store, request(2, claim=claim))
    late.join()
    close(store, settled(2))
    assert {row.id: row.outcome for row in rows(store)} == {1: "lost", 2: "ok"}
    assert totals(store) == from_ledger(store)


def test_a_lost_row_keeps_its_last_checkpoint_and_costs_nothing(store: Store) -> None:
    ask(store, request(1))
    with store.write() as connection:
        checkpoint(connection, [Checkpoint(1, 40, 3, 111)])
        checkpoint(connection, [Checkpoint(1, 40, 8, 111)])
    with store.write() as connection:
        close_lost(connection, GATEWAY, 222)
    (row,) = rows(store)
    assert (row.prompt_tokens, row.completion_tokens, row.first_token_at) == (40, 8, 111)
    assert (row.outcome, row.cost, row.ended_at, row.estimated) == ("lost", 0, 222, True)


def test_a_checkpoint_that_comes_late_changes_no_closed_row(store: Store) -> None:
    ask(store, request(1))
    close(store, settled(1))
    with store.write() as connection:
        checkpoint(connection, [Checkpoint(1, 1, 1, 1)])
    (row,) = rows(store)
    assert row.completion_tokens == 10


def test_only_the_dead_gateways_rows_are_closed(store: Store) -> None:
    ask(store, request(1))
    with store.write() as connection:
        assert close_lost(connection, GATEWAY + 1, 1) == 0
    assert rows(store)[0].outcome is None


def test_the_sums_agree_with_the_rows_whatever_happens(store: Store) -> None:
    make_key(store, "key_b", limits=RateLimits(rpm=1000, tpm=10**6))
    chance = random.Random(7)
    outcomes = get_args(LedgerOutcome)
    for batch in range(20):
        ids = [batch * 10 + n for n in range(10)]
        ask(store, *(request(id, chance.choice(("key_a", "key_b"))) for id in ids))
        told = chance.sample(range((batch + 1) * 10), 9 + min(batch, 3))  # some twice, some never
        close(
            store,
            *(
                settled(id, chance.choice(outcomes), chance.randrange(99), chance.randrange(99))
                for id in told
            ),
        )
        assert totals(store) == from_ledger(store)
    assert {row.key_id for row in rows(store, "usage_daily")} == {"key_a", "key_b"}


def test_tokens_are_given_back_to_the_second_that_counted_them(store: Store) -> None:
    make_key(store, "key_b", limits=RateLimits(tpm=1000))
    ask(store, request(1, "key_b"), request(2, "key_b"))
    (window,) = rows(store, "limit_windows")
    assert (window.subject, window.requests, window.tokens) == ("key:key_b", 2, 200)
    close(store, settled(1, prompt=30, completion=0))
    assert rows(store, "limit_windows")[0].tokens == 130


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_gateway_whose_clock_is_another_gives_tokens_back_all_the_same(
    store: Store, minutes: int
) -> None:
    make_key(store, "key_b", limits=RateLimits(tpm=100))
    ask(store, request(1, "key_b"))
    close(store, structs.replace(settled(1), ended_at=now_ms() + minutes * 60_000))
    [granted] = ask(store, request(2, "key_b", tokens=50))
    assert isinstance(granted, Granted)


def test_an_amendment_gives_back_what_a_running_request_will_not_need(store: Store) -> None:
    make_key(store, "key_b", limits=RateLimits(tpm=100), **BUDGET)
    price = Price(1, 1, 1, "USD")
    ask(store, request(1, "key_b", tokens=100, cost=100, price=price))
    [refused] = ask(store, request(2, "key_b", tokens=60, cost=60, price=price))
    assert isinstance(refused, RateLimitExceeded)
    with store.write() as connection:
        amend(connection, [Amendment(1, 40, 40)])
    [granted] = ask(store, request(2, "key_b", tokens=60, cost=60, price=price))
    assert isinstance(granted, Granted)
    close(store, settled(1, prompt=10, completion=10))
    [granted] = ask(store, request(3, "key_b", tokens=20, cost=20, price=price))
    assert isinstance(granted, Granted)


def test_of_several_amendments_at_once_the_last_holds(store: Store) -> None:
    make_key(store, "key_b", limits=RateLimits(tpm=100))
    ask(store, request(1, "key_b", tokens=100))
    with store.write() as connection:
        amend(connection, [Amendment(1, 40, 7), Amendment(1, 90, 8)])
    (row,) = rows(store)
    assert (row.reserved_tokens, row.reserved_cost) == (90, 8)
    assert isinstance(ask(store, request(2, "key_b", tokens=11))[0], RateLimitExceeded)
    assert isinstance(ask(store, request(2, "key_b", tokens=10))[0], Granted)


def test_an_amendment_gives_back_to_those_limits_alone_that_counted_its_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key may be given a limit between two of its requests."""
    now = time.time()
    monkeypatch.setattr(reservations, "clock", lambda _: now)
    of_model = RateLimits(tpm=1000)
    [first] = ask(store, request(1, model_limits=of_model))
    with store.write() as connection:
        limited = keys.by_ids(connection, ["key_a"])["key_a"]
        keys.update(connection, structs.replace(limited, limits=RateLimits(tpm=100)))
    ask(store, request(2, model_limits=of_model))
    assert isinstance(first, Granted)
    with store.write() as connection:
        amend(connection, [Amendment(1, 40, 0, first.subjects)])
    [refused] = ask(store, request(3, tokens=50, model_limits=of_model))
    assert isinstance(refused, RateLimitExceeded)


def test_an_amendment_that_comes_late_changes_nothing(store: Store) -> None:
    ask(store, request(1))
    close(store, settled(1))
    before = rows(store), rows(store, "limit_windows")
    with store.write() as connection:
        amend(connection, [Amendment(1, 1, 1), Amendment(99, 1, 1)])
    assert (rows(store), rows(store, "limit_windows")) == before
