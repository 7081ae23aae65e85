"""A reservation opens a row within every limit, or none."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection

from reverie.errors import (
    InsufficientQuota,
    InvalidApiKey,
    ModelNotAllowed,
    RateLimitExceeded,
)
from reverie.money import Price
from reverie.store import keys, reservations
from reverie.store.answers import Claim
from reverie.store.database import coordination
from reverie.store.database.engine import Store
from reverie.store.limits import RateLimits
from reverie.store.reservations import Granted, ReservationRequest, Result
from reverie.times import now_ms
from tests.store.ledger_helpers import GATEWAY, PRICE, ask, close, make_key, request, rows, settled


def granted(results: list[Result]) -> list[bool]:
    return [isinstance(result, Granted) for result in results]


def test_a_row_is_open_and_holds_what_was_asked(store: Store) -> None:
    make_key(store)
    assert granted(ask(store, request(1, cost=700, claim=Claim("once", b"f")))) == [True]
    (row,) = rows(store)
    assert (row.id, row.request_id, row.gateway_id, row.key_id) == (1, "req_1", GATEWAY, "key_a")
    assert (row.outcome, row.reserved_tokens, row.reserved_cost) == (None, 100, 700)
    assert (row.price_input, row.price_cached, row.price_output) == (10, 1, 100)
    assert row.idempotency_key == "once"
    assert abs(row.created_at - now_ms()) < 60_000


def test_a_key_without_limits_is_told_of_none(store: Store) -> None:
    make_key(store)
    (result,) = ask(store, request(1))
    assert result == Granted(limited=False, subjects=(), rate=None)
    assert rows(store, "limit_windows") == []


@pytest.mark.parametrize("ended", ["revoked", "expired", "never made"])
def test_a_key_that_has_ended_opens_no_row(store: Store, ended: str) -> None:
    if ended != "never made":
        make_key(store, expires_at=now_ms() - 1 if ended == "expired" else None)
    if ended == "revoked":
        with store.write() as connection:
            assert keys.revoke(connection, "key_a", now_ms())
    (result,) = ask(store, request(1))
    assert isinstance(result, InvalidApiKey)
    assert rows(store) == []


def test_a_key_may_use_its_models_by_any_of_their_names(store: Store) -> None:
    make_key(store, models=("small", "other"))
    allowed, refused = ask(store, request(1, names=("m", "small")), request(2, names=("m", "big")))
    assert isinstance(allowed, Granted)
    assert isinstance(refused, ModelNotAllowed)
    assert "small, other" in refused.message


def test_the_requests_of_one_transaction_count_against_each_other(store: Store) -> None:
    make_key(store, limits=RateLimits(rpm=3))
    results = ask(store, *(request(number) for number in range(1, 6)))
    assert granted(results) == [True, True, True, False, False]
    assert [row.id for row in rows(store)] == [1, 2, 3]
    refusal = results[-1]
    assert isinstance(refusal, RateLimitExceeded)
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(refusal.headers["Retry-After"]) <= 61


def test_requests_of_later_transactions_count_too(store: Store) -> None:
    make_key(store, limits=RateLimits(tpm=250))
    assert granted(ask(store, request(1))) == [True]
    assert granted(ask(store, request(2))) == [True]
    assert granted(ask(store, request(3), request(4, tokens=50))) == [False, True]


def test_what_a_request_did_not_use_is_given_back(store: Store) -> None:
    make_key(store, limits=RateLimits(tpm=120))
    assert granted(ask(store, request(1), request(2))) == [True, False]
    close(store, settled(1, prompt=10, completion=5))
    (result,) = ask(store, request(3))
    assert isinstance(result, Granted)
    assert result.rate is not None
    assert result.rate.remaining_tokens == 120 - 15 - 100


def test_requests_at_once_are_those_whose_rows_are_open(store: Store) -> None:
    make_key(store, limits=RateLimits(concurrency=2))
    assert granted(ask(store, *(request(number) for number in (1, 2, 3)))) == [True, True, False]
    close(store, settled(1))
    assert granted(ask(store, request(4), request(5))) == [True, False]


@pytest.mark.postgres
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_request_begins_after_the_end_of_those_that_made_room_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one transaction decides on a limit, others end requests all the time."""
    make_key(store, limits=RateLimits(concurrency=1))
    ask(store, request(1))
    read = reservations._open_rows

    def read_once_the_first_has_ended(*given: Any) -> Any:
        time.sleep(0.01)
        close(store, settled(1))
        return read(*given)

    monkeypatch.setattr(reservations, "_open_rows", read_once_the_first_has_ended)
    assert granted(ask(store, request(2))) == [True]
    first, second = rows(store)
    assert second.created_at >= first.ended_at


@pytest.mark.postgres
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("change", ["revoked", "limited on a model"])
def test_what_becomes_of_a_key_while_its_limits_are_locked_decides_on_its_request(
    store: Store, change: str
) -> None:
    """Another gateway may take a while to decide on requests of the same key."""
    key = make_key(store, limits=RateLimits(rpm=9))
    ask(store, request(1))
    results: list[Result] = []
    asking = threading.Thread(target=lambda: results.extend(ask(store, request(2))))
    with store.write() as other_gateway:
        coordination.lock(other_gateway, ["key:key_a"])
        asking.start()
        time.sleep(0.3)
        with store.write() as connection:
            if change == "revoked":
                keys.revoke(connection, key.id, now_ms())
            else:
                limits = {"m": RateLimits(concurrency=1)}
                keys.update(connection, structs.replace(key, model_limits=limits))
    asking.join()
    [result] = results
    expected = InvalidApiKey if change == "revoked" else RateLimitExceeded
    assert isinstance(result, expected)


def test_a_key_may_have_limits_of_its_own_for_one_model(store: Store) -> None:
    make_key(store, limits=RateLimits(rpm=10), model_limits={"big": RateLimits(rpm=1)})

    def of(model: str, id: int) -> ReservationRequest:
        return request(id, model=model, names=(model,))

    results = ask(store, of("big", 1), of("big", 2), of("m", 3), of("m", 4))
    assert granted(results) == [True, False, True, True]


def test_limits_on_several_names_of_one_model_hold_together(store: Store) -> None:
    limits = {"m": RateLimits(rpm=1), "alias": RateLimits(rpm=9, tpm=150)}
    make_key(store, model_limits=limits)
    names = ("m", "alias")
    assert granted(ask(store, request(1, names=names, tokens=151))) == [False]
    small = [request(id, names=names, tokens=10) for id in (1, 2)]
    assert granted(ask(store, *small)) == [True, False]


def test_a_models_limits_hold_over_all_its_callers(store: Store) -> None:
    make_key(store, "key_a")
    make_key(store, "key_b")
    limits = RateLimits(concurrency=2)
    requests = [
        request(n, key, model_limits=limits) for n, key in enumerate(("key_a", "key_b") * 2)
    ]
    assert granted(ask(store, *requests)) == [True, True, False, False]
    anonymous = request(9, "anonymous", stored=False, model_limits=limits)
    (refusal,) = ask(store, anonymous)
    assert isinstance(refusal, RateLimitExceeded)
    assert "All callers of m together" in refusal.message


def test_a_budget_counts_what_was_spent_and_what_is_set_aside(store: Store) -> None:
    make_key(store, budget=10_000, budget_period="month", currency="USD")
    assert granted(ask(store, request(1, cost=6000), request(2, cost=6000))) == [True, False]
    close(store, settled(1, prompt=100, completion=40))  # 5000
    assert granted(ask(store, request(3, cost=5001))) == [False]
    assert granted(ask(store, request(4, cost=5000))) == [True]
    (refusal,) = ask(store, request(5, cost=1))
    assert isinstance(refusal, InsufficientQuota)


@pytest.mark.postgres
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_request_that_ends_at_that_moment_counts_once_against_a_budget(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set aside for it is then spent."""
    make_key(store, budget=100, budget_period="day", currency="USD")
    price = Price(input=1, output=1, currency="USD")
    ask(store, request(1, tokens=60, cost=60, price=price))
    ending = threading.Thread(target=close, args=(store, settled(1, prompt=50, completion=10)))
    execute = Connection.execute

    def execute_and_have_it_end(connection: Connection, statement: Any, *given: Any) -> Any:
        found = execute(connection, statement, *given)
        if "reserved_cost" in str(statement) and not ending.ident:
            ending.start()
            ending.join()
        return found

    monkeypatch.setattr(Connection, "execute", execute_and_have_it_end)
    results = ask(store, request(2, tokens=40, cost=40, price=price))
    assert ending.ident
    assert granted(results) == [True]


def test_a_budget_in_another_currency_buys_nothing(store: Store) -> None:
    make_key(store, budget=10**12, budget_period="day", currency="EUR")
    free, priced = ask(store, request(1, cost=0), request(2, cost=50, price=PRICE))
    assert isinstance(free, Granted)
    assert isinstance(priced, InsufficientQuota)
    assert "budget is in EUR" in priced.message


def test_a_try_that_was_committed_unbeknown_to_us_is_not_counted_twice(store: Store) -> None:
    make_key(store, limits=RateLimits(rpm=3))
    ask(store, request(1), request(2))
    assert granted(ask(store, request(1), request(2), request(3), is_retry=True)) == [True] * 3
    assert [row.id for row in rows(store)] == [1, 2, 3]
    assert granted(ask(store, request(4))) == [False]


def test_gateways_that_decide_at_the_same_time_admit_no_more_than_one_alone(store: Store) -> None:
    make_key(store, limits=RateLimits(rpm=25))
    results: list[bool] = []

    def gateway(number: int) -> None:
        for turn in range(10):
            first = number * 1000 + turn * 10
            results.extend(granted(ask(store, *(request(first + n) for n in range(3)))))

    threads = [threading.Thread(target=gateway, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 120
    assert sum(results) == 25
    assert len(rows(store)) == 25
