"""Reservations: the ledger's rows are opened here, within every limit.

Rule 1: all that decides on a request is read in the transaction that opens its row, under locks on
the limited subjects. A key that was revoked a moment ago opens no row on any gateway.

Rule 2: one transaction takes many orders. They are decided in their order, each as if those before
it had been committed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct, structs
from sqlalchemy import (
    Connection,
    bindparam,
    func,
    insert,
    or_,
    select,
    text,
)

from reverie.errors import (
    InsufficientQuota,
    InvalidApiKey,
    ModelNotAllowed,
    RateStatus,
    RequestInProgress,
    ReverieError,
    StreamNotResumable,
)
from reverie.store import answers, keys
from reverie.store.answers import Claim, StoredAnswer
from reverie.store.database import schema
from reverie.store.database.prepared import Prepared, upsert_into
from reverie.store.keys import Key, RateLimits
from reverie.store.limits import SPAN, Purse, Standing, period_begin, tightest

ANSWERS_KEPT_MS = 24 * 3600 * 1000
"""For how long an answer is given again."""

_LEDGER = schema.ledger
_WINDOWS = schema.limit_windows
_USAGE = schema.usage_daily


class Price(Struct, frozen=True):
    """Nano-units per token."""

    input: int = 0
    cached: int = 0
    output: int = 0
    currency: str = ""

    def of(self, prompt: int, cached: int, completion: int) -> int:
        """The cost of so many tokens, in nano-units; ``cached`` are among ``prompt``."""
        fresh = max(0, prompt - cached)
        return fresh * self.input + cached * self.cached + completion * self.output


FREE = Price()


class Order(Struct, frozen=True, kw_only=True):
    """A request that asks to be let in."""

    id: int
    """The number of its row."""
    request_id: str
    key_id: str
    stored: bool
    """Whether ``key_id`` is a key of the store, with its limits there."""
    model: str
    names: tuple[str, ...]
    """Every name of the model; a key that may use one of them may use it."""
    tokens: int
    """The most that prompt and answer are expected to come to."""
    prompt_tokens: int
    """The prompt's part of them."""
    cost: int
    price: Price = FREE
    model_limits: RateLimits = RateLimits()
    """Of the model, over all keys."""
    claim: Claim | None = None
    """Where it carries an ``Idempotency-Key``."""


class Granted(Struct, frozen=True):
    """An order whose row is open."""

    limited: bool = False
    """Whether what it doesn't use is to be given back to a limit."""
    rate: RateStatus | None = None
    base: int = 0
    """The events of its answer are numbered from the next number on."""


def own_base(now: float) -> int:
    """A number from which no earlier stream of the same claim has counted, nor come to.

    Args:
        now: seconds since 1970; there are a million numbers for each.
    """
    return int(now * 1000) * 1000


class _LimitState:
    """What the limits' decisions stand on, as read in one transaction."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.keys: dict[str, Key] = {}
        self.standings: dict[str, Standing] = {}
        self.purses: dict[str, Purse] = {}
        self.increments: dict[str, tuple[int, int]] = {}


Result: TypeAlias = Granted | StoredAnswer | ReverieError


def reserve(
    connection: Connection, orders: Sequence[Order], gateway_id: int, *, again: bool = False
) -> list[Result]:
    """Open a row for each order that its limits allow, and that wasn't answered before.

    Args:
        again: an earlier try may have been committed unbeknown to us; what it opened stays.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: nothing has happened.
    """
    opened = _already_open(connection, orders) if again else frozenset()
    state = _read_state(connection, [order for order in orders if order.id not in opened])
    taken = _taken_claims(connection, orders, opened, int(state.now * 1000))
    results: list[Result] = []
    claims: list[tuple[str, Claim, int]] = []
    rows: list[dict[str, Any]] = []
    for order in orders:
        if order.id in opened:
            results.append(Granted(limited=True, base=own_base(state.now)))
            continue
        place = _place(order)
        if place is not None and (before := taken.get(place)) is not None:
            results.append(before)
            continue
        if order.claim is not None and order.claim.after:
            results.append(StreamNotResumable())
            continue
        try:
            granted = _admit(order, state)
        except ReverieError as refusal:
            results.append(refusal)
        else:
            if place is not None and order.claim is not None:
                if place in taken:
                    granted = structs.replace(granted, base=own_base(state.now))
                taken[place] = RequestInProgress()
                claims.append((order.key_id, order.claim, order.id))
            results.append(granted)
            rows.append(_row(order, gateway_id, int(state.now * 1000)))
    if rows:
        _OPEN_ROW.execute_many(connection, rows)
    if claims:
        answers.claim(connection, claims, int(state.now * 1000))
    if state.increments:
        _add_to_windows(connection, state)
    return results


def _place(order: Order) -> tuple[str, str] | None:
    return None if order.claim is None else (order.key_id, order.claim.key)


def _taken_claims(
    connection: Connection, orders: Iterable[Order], opened: frozenset[int], now: int
) -> dict[tuple[str, str], StoredAnswer | ReverieError | None]:
    """Claims that were made before, and why they can't be made anew, if they can't."""
    wanted = {
        (order.key_id, order.claim.key): order.claim
        for order in orders
        if order.claim is not None and order.id not in opened
    }
    if wanted:
        _lock(connection, [f"claim:{key_id}:{key}" for key_id, key in wanted])
    return answers.find(connection, wanted, now - ANSWERS_KEPT_MS)


def subjects_of(key_id: str, model: str) -> tuple[str, str, str]:
    """The subjects whose limits a request counts against, whether they have any or not."""
    return f"key:{key_id}", f"key:{key_id}:{model}", f"model:{model}"


def _admit(order: Order, state: _LimitState) -> Granted:
    if order.stored:
        key = state.keys.get(order.key_id)
        if key is None or not key.usable(int(state.now * 1000)):
            raise InvalidApiKey("This API key is not valid any more. Ask for a new one.")
        if not any(map(key.may_use, order.names)):
            allowed = ", ".join(key.models or ()) or "none"
            raise ModelNotAllowed(
                f"This key may not use {order.model}. Models it may use: {allowed}.", param="model"
            )
    standings = [
        standing
        for subject in subjects_of(order.key_id, order.model)
        if (standing := state.standings.get(subject)) is not None
    ]
    for standing in standings:
        standing.admit(order.tokens, state.now)
    purse = state.purses.get(order.key_id)
    if purse is not None:
        if order.cost and purse.currency != order.price.currency:
            raise InsufficientQuota(
                f"This key's budget is in {purse.currency}, and {order.model} costs "
                f"{order.price.currency}. Ask its operator for a budget in that currency."
            )
        purse.admit(order.cost, state.now)
        purse.spent += order.cost
    for standing in standings:
        standing.add(order.tokens, state.now)
    for subject in subjects_of(order.key_id, order.model):
        if subject in state.standings:
            requests, tokens = state.increments.get(subject, (0, 0))
            state.increments[subject] = (requests + 1, tokens + order.tokens)
    return Granted(
        limited=bool(standings),
        rate=tightest(standing.status(state.now) for standing in standings),
    )


def _read_state(connection: Connection, orders: Sequence[Order]) -> _LimitState:
    stored = {order.key_id for order in orders if order.stored}
    found = keys.by_ids(connection, stored) if stored else {}
    limited = _limited_subjects(orders, found)
    budgeted = {key.id: key for key in found.values() if key.budget is not None}
    if limited or budgeted:
        _lock(connection, [*limited, *(f"key:{id}" for id in budgeted)])
    state = _LimitState(clock(connection))
    state.keys = found
    running, set_aside = _open_rows(connection, limited, budgeted)
    if limited:
        buckets = _buckets(connection, limited, int(state.now))
        state.standings = {
            subject: Standing(label, limits, buckets.get(subject, ()), running.get(subject, 0))
            for subject, (label, limits) in limited.items()
        }
    for key in budgeted.values():
        state.purses[key.id] = _purse(connection, key, set_aside.get(key.id, 0), state.now)
    return state


def _limited_subjects(
    orders: Iterable[Order], found: Mapping[str, Key]
) -> dict[str, tuple[str, RateLimits]]:
    """Subject → how to call it, and its limits; of those that have any."""
    limited: dict[str, tuple[str, RateLimits]] = {}
    for order in orders:
        of_key, of_key_and_model, of_model = subjects_of(order.key_id, order.model)
        if (key := found.get(order.key_id)) is not None:
            if key.limits:
                limited[of_key] = ("This key", key.limits)
            for name in order.names:
                if limits := key.model_limits.get(name):
                    limited[of_key_and_model] = (f"This key, on {order.model},", limits)
        if order.model_limits:
            limited[of_model] = (f"All callers of {order.model} together", order.model_limits)
    return limited


def _lock(connection: Connection, subjects: Iterable[str]) -> None:
    """Let no other gateway decide on these subjects until this transaction ends.

    SQLite's one write lock is held already.
    """
    if connection.dialect.name != "postgresql":
        return
    numbers = {
        int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big", signed=True)
        for subject in subjects
    }
    for number in sorted(numbers):  # in one order everywhere, so that no two wait on each other
        connection.execute(_ADVISORY_LOCK, {"number": number})


_ADVISORY_LOCK = text("SELECT pg_advisory_xact_lock(:number)")
_DATABASE_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())")


def clock(connection: Connection) -> float:
    """Seconds since 1970: the database's where several machines share it, else this machine's."""
    if connection.dialect.name != "postgresql":
        return time.time()
    return float(connection.execute(_DATABASE_CLOCK).scalar_one())


def _buckets(
    connection: Connection, subjects: Iterable[str], second: int
) -> dict[str, list[tuple[int, int, int]]]:
    """The windows' rows. Those from a future that a clock has come back from don't count."""
    rows = _BUCKETS.execute(
        connection, {"after": second - SPAN, "before": second + SPAN}, list(subjects)
    )
    buckets: dict[str, list[tuple[int, int, int]]] = {}
    for subject, at, requests, tokens in rows:
        buckets.setdefault(subject, []).append((at, requests, tokens))
    return buckets


_BUCKETS = Prepared(
    lambda _, subjects: select(_WINDOWS).where(
        _WINDOWS.c.subject.in_(subjects),
        _WINDOWS.c.second > bindparam("after"),
        _WINDOWS.c.second < bindparam("before"),
    )
)


def _open_rows(
    connection: Connection,
    limited: Mapping[str, tuple[str, RateLimits]],
    budgeted: Mapping[str, Key],
) -> tuple[dict[str, int], dict[str, int]]:
    """Subject → open requests, and key → money set aside; of those where it matters."""
    counted = {s for s, (_, limits) in limited.items() if limits.concurrency is not None}
    if not counted and not budgeted:
        return {}, {}
    of_keys = {subject.split(":")[1] for subject in counted if subject.startswith("key:")}
    of_models = {s.removeprefix("model:") for s in counted if s.startswith("model:")}
    rows = connection.execute(
        _OPEN, {"keys": list(of_keys | set(budgeted)), "models": list(of_models)}
    )
    running: dict[str, int] = {}
    set_aside: dict[str, int] = {}
    for key_id, model, requests, cost in rows:
        set_aside[key_id] = set_aside.get(key_id, 0) + int(cost)
        for subject in subjects_of(key_id, model):
            running[subject] = running.get(subject, 0) + requests
    return running, set_aside


_OPEN = (
    select(
        _LEDGER.c.key_id,
        _LEDGER.c.model,
        func.count(),
        func.coalesce(func.sum(_LEDGER.c.reserved_cost), 0),
    )
    .where(
        _LEDGER.c.outcome.is_(None),
        or_(
            _LEDGER.c.key_id.in_(bindparam("keys", expanding=True)),
            _LEDGER.c.model.in_(bindparam("models", expanding=True)),
        ),
    )
    .group_by(_LEDGER.c.key_id, _LEDGER.c.model)
)


def _purse(connection: Connection, key: Key, set_aside: int, now: float) -> Purse:
    assert key.budget is not None
    period = key.budget_period or "month"
    spent = connection.execute(
        _SPENT,
        {"key": key.id, "currency": key.currency, "since": period_begin(period, now)},
    ).scalar_one()
    return Purse(key.budget, key.currency or "", period, int(spent) + set_aside)


_SPENT = select(func.coalesce(func.sum(_USAGE.c.cost), 0)).where(
    _USAGE.c.key_id == bindparam("key"),
    _USAGE.c.day >= bindparam("since"),
    _USAGE.c.currency == bindparam("currency"),
)


def _already_open(connection: Connection, orders: Sequence[Order]) -> frozenset[int]:
    ids = [order.id for order in orders]
    return frozenset(connection.scalars(select(_LEDGER.c.id).where(_LEDGER.c.id.in_(ids))))


def _row(order: Order, gateway_id: int, now: int) -> dict[str, Any]:
    return {
        "id": order.id,
        "request_id": order.request_id,
        "gateway_id": gateway_id,
        "key_id": order.key_id,
        "model": order.model,
        "idempotency_key": None if order.claim is None else order.claim.key,
        "reserved_tokens": order.tokens,
        "reserved_cost": order.cost,
        "price_input": order.price.input,
        "price_cached": order.price.cached,
        "price_output": order.price.output,
        "currency": order.price.currency,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "cost": 0,
        "estimated": False,
        "created_at": now,
    }


_OPEN_ROW = Prepared(
    lambda *_: insert(_LEDGER).values(
        {
            name: bindparam(name)
            for name in (
                "id",
                "request_id",
                "gateway_id",
                "key_id",
                "model",
                "idempotency_key",
                "reserved_tokens",
                "reserved_cost",
                "price_input",
                "price_cached",
                "price_output",
                "currency",
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "cost",
                "estimated",
                "created_at",
            )
        }
    )
)


def _add_to_windows(connection: Connection, state: _LimitState) -> None:
    second = int(state.now)
    _UPSERT_WINDOW.execute_many(
        connection,
        [
            {"subject": subject, "second": second, "requests": requests, "tokens": tokens}
            for subject, (requests, tokens) in sorted(state.increments.items())
        ],
    )


def _upsert_window(dialect: str, _: object) -> Any:
    statement = upsert_into(dialect, _WINDOWS)
    return statement.on_conflict_do_update(
        index_elements=["subject", "second"],
        set_={
            "requests": _WINDOWS.c.requests + statement.excluded.requests,
            "tokens": _WINDOWS.c.tokens + statement.excluded.tokens,
        },
    )


_UPSERT_WINDOW = Prepared(_upsert_window)
