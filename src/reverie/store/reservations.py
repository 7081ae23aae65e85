"""Reservations: a request's row of the ledger is opened here, within every limit.

Rule 1: everything that decides on a request is read in the transaction that opens its row, under
locks on the limited subjects. No gateway opens a row for a key that was revoked a moment ago.

Rule 2: one transaction takes many requests. It decides on them in order, on each as if those before
it had been committed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct, structs
from sqlalchemy import Connection, bindparam, func, or_, select

from reverie.errors import (
    InsufficientQuota,
    InvalidApiKey,
    ModelNotAllowed,
    RateStatus,
    RequestInProgress,
    ReverieError,
    StreamNotResumable,
)
from reverie.money import FREE, Price
from reverie.store import answers, keys, ledger_rows, usage, windows
from reverie.store.answers import ANSWERS_KEPT_MS, Claim, StoredAnswer, fresh_event_base
from reverie.store.database import schema
from reverie.store.database.coordination import clock, lock
from reverie.store.keys import Key
from reverie.store.ledger_rows import LedgerRow
from reverie.store.limits import NOTHING_USED, BudgetUsage, LimitUsage, RateLimits, tightest
from reverie.store.windows import subjects_of

_LEDGER = schema.ledger


class ReservationRequest(Struct, frozen=True, kw_only=True):
    """A request that asks for a row of the ledger."""

    id: int
    """The number of its row."""
    request_id: str
    key_id: str
    stored: bool
    """True if ``key_id`` is a key of the store, whose limits are there."""
    model: str
    names: tuple[str, ...]
    """Every name of the model. A key that may use one of them may use the model."""
    tokens: int
    """The most that prompt and answer may come to."""
    prompt_tokens: int
    """The prompt's part of ``tokens``."""
    max_tokens: int
    """The answer's part of ``tokens``, at most."""
    prompt_estimate: int
    """What the prompt is billed as if no engine ever tells its size."""
    cost: int
    """The most that it may cost, in nano-units."""
    price: Price = FREE
    model_limits: RateLimits = RateLimits()
    """The model's limits over all keys."""
    claim: Claim | None = None
    """If it carries an ``Idempotency-Key``."""


class Granted(Struct, frozen=True):
    """A request's row is open."""

    limited: bool = False
    """True if what it doesn't use must be given back to a limit or a budget."""
    subjects: tuple[str, ...] | None = None
    """Whose limits per minute it counts against; None: not known."""
    rate: RateStatus | None = None
    base: int = 0
    """The number after which the events of its answer are numbered."""


Result: TypeAlias = Granted | StoredAnswer | ReverieError


class _LimitState:
    """What the decisions on limits are based on, as read in one transaction."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.keys: dict[str, Key] = {}
        self.limits: dict[str, LimitUsage] = {}
        """By subject."""
        self.budgets: dict[str, BudgetUsage] = {}
        """By key."""
        self.used: dict[str, tuple[int, int]] = {}
        """Requests and tokens that this transaction adds to each subject."""

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)


def reserve(
    connection: Connection,
    requests: Sequence[ReservationRequest],
    gateway_id: int,
    *,
    is_retry: bool = False,
) -> list[Result]:
    """Open a row for each request that its limits allow and that wasn't answered before.

    Args:
        is_retry: an earlier try may have been committed without our knowing. Its rows stay.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: nothing has happened.
    """
    opened = _already_open(connection, requests) if is_retry else frozenset()
    state = _read_state(connection, [request for request in requests if request.id not in opened])
    taken = _taken_claims(connection, requests, opened, state.now_ms)
    results: list[Result] = []
    claims: list[tuple[str, Claim, int]] = []
    rows: list[tuple[LedgerRow, str, int]] = []
    for request in requests:
        if request.id in opened:
            results.append(Granted(limited=True, base=fresh_event_base(state.now)))
            continue
        place = _place(request)
        if place is not None and (before := taken.get(place)) is not None:
            results.append(before)
            continue
        if request.claim is not None and request.claim.after:
            results.append(StreamNotResumable())
            continue
        try:
            granted = _admit(request, state)
        except ReverieError as refusal:
            results.append(refusal)
        else:
            if place is not None and request.claim is not None:
                if place in taken:
                    granted = structs.replace(granted, base=fresh_event_base(state.now))
                taken[place] = RequestInProgress()
                claims.append((request.key_id, request.claim, request.id))
            results.append(granted)
            rows.append((_row(request, state.now_ms), request.request_id, request.cost))
    if rows:
        ledger_rows.insert(connection, rows, gateway_id)
    if claims:
        answers.claim(connection, claims, state.now_ms)
    if state.used:
        windows.add(connection, state.used, int(state.now))
    return results


def _row(request: ReservationRequest, now: int) -> LedgerRow:
    return LedgerRow(
        request.id,
        request.key_id,
        request.model,
        None if request.claim is None else request.claim.key,
        request.tokens,
        request.price,
        now,
    )


def _already_open(connection: Connection, requests: Sequence[ReservationRequest]) -> frozenset[int]:
    ids = [request.id for request in requests]
    return frozenset(connection.scalars(select(_LEDGER.c.id).where(_LEDGER.c.id.in_(ids))))


# Claims -----------------------------------------------------------------------------------


def _place(request: ReservationRequest) -> tuple[str, str] | None:
    return None if request.claim is None else (request.key_id, request.claim.key)


def _taken_claims(
    connection: Connection,
    requests: Iterable[ReservationRequest],
    opened: frozenset[int],
    now: int,
) -> dict[tuple[str, str], StoredAnswer | ReverieError | None]:
    """The requests' claims that were made before; see ``answers.find``."""
    wanted = {
        (request.key_id, request.claim.key): request.claim
        for request in requests
        if request.claim is not None and request.id not in opened
    }
    if wanted:
        answers.lock_claims(connection, wanted)
    return answers.find(connection, wanted, now - ANSWERS_KEPT_MS)


# Limits -----------------------------------------------------------------------------------


def _admit(request: ReservationRequest, state: _LimitState) -> Granted:
    """Decide on one request, and count it in ``state``.

    Raises:
        InvalidApiKey, ModelNotAllowed, RateLimitExceeded, InsufficientQuota
    """
    if request.stored:
        _check_key(request, state)
    subjects = tuple(s for s in subjects_of(request.key_id, request.model) if s in state.limits)
    limits = [state.limits[subject] for subject in subjects]
    for limit in limits:
        limit.admit(request.tokens, state.now, request.max_tokens)
    budget = state.budgets.get(request.key_id)
    if budget is not None:
        if request.cost and budget.currency != request.price.currency:
            raise InsufficientQuota(
                f"This key's budget is in {budget.currency}, and {request.model} costs "
                f"{request.price.currency}. Ask its operator for a budget in that currency."
            )
        budget.admit(request.cost, state.now, request.price.most(0, request.max_tokens))
        budget.spent += request.cost
    for limit in limits:
        limit.add(request.tokens, state.now)
    for subject in subjects:
        count, tokens = state.used.get(subject, (0, 0))
        state.used[subject] = (count + 1, tokens + request.tokens)
    limited = bool(limits) or budget is not None
    rate = tightest([limit.status(state.now) for limit in limits])
    return Granted(limited=limited, subjects=subjects, rate=rate)


def _check_key(request: ReservationRequest, state: _LimitState) -> None:
    key = state.keys.get(request.key_id)
    if key is None or not key.usable(state.now_ms):
        raise InvalidApiKey("This API key is not valid any more. Ask for a new one.")
    if not any(map(key.may_use, request.names)):
        allowed = ", ".join(key.models or ()) or "none"
        raise ModelNotAllowed(
            f"This key may not use {request.model}. Models it may use: {allowed}.", param="model"
        )


def _read_state(connection: Connection, requests: Sequence[ReservationRequest]) -> _LimitState:
    stored = {request.key_id for request in requests if request.stored}
    locked: set[str] = set()
    while True:
        found = keys.by_ids(connection, stored) if stored else {}
        limited = _limited_subjects(requests, found)
        budgeted = {key.id: key for key in found.values() if key.budget is not None}
        needed = {*limited, *(f"key:{id}" for id in budgeted)} - locked
        if not needed or not lock(connection, needed):
            break
        locked |= needed  # keys may have changed while others held the locks
    running = _open_rows(connection, limited)
    state = _LimitState(clock(connection))  # after the ends of those that aren't open any more
    state.keys = found
    if limited:
        second = int(state.now)
        used = windows.sums(connection, limited, second)
        state.limits = {
            subject: LimitUsage(
                label,
                limits,
                used.get(subject, NOTHING_USED),
                running.get(subject, 0),
                functools.partial(windows.seconds, connection, subject, second),
            )
            for subject, (label, limits) in limited.items()
        }
    if budgeted:
        spent = usage.spent_and_reserved(connection, list(budgeted.values()), state.now_ms)
        state.budgets = {id: _budget_usage(key, spent.get(id, 0)) for id, key in budgeted.items()}
    return state


def _budget_usage(key: Key, spent: int) -> BudgetUsage:
    assert key.budget is not None
    return BudgetUsage(key.budget, key.currency or "", key.budget_period or "month", spent)


def _limited_subjects(
    requests: Iterable[ReservationRequest], found: Mapping[str, Key]
) -> dict[str, tuple[str, RateLimits]]:
    """Subject → what error messages call it, and its limits; without unlimited subjects."""
    limited: dict[str, tuple[str, RateLimits]] = {}
    for request in requests:
        of_key, of_key_and_model, of_model = subjects_of(request.key_id, request.model)
        if (key := found.get(request.key_id)) is not None:
            if key.limits:
                limited[of_key] = ("This key", key.limits)
            named = [one for name in request.names if (one := key.model_limits.get(name))]
            if named:
                label = f"This key, on {request.model},"
                limited[of_key_and_model] = (label, RateLimits.all_of(named))
        if request.model_limits:
            limited[of_model] = (
                f"All callers of {request.model} together",
                request.model_limits,
            )
    return limited


def _open_rows(
    connection: Connection, limited: Mapping[str, tuple[str, RateLimits]]
) -> dict[str, int]:
    """Subject → its open requests, which are counted only where their number is limited."""
    counted = {s for s, (_, limits) in limited.items() if limits.concurrency is not None}
    if not counted:
        return {}
    of_keys = {subject.split(":")[1] for subject in counted if subject.startswith("key:")}
    of_models = {s.removeprefix("model:") for s in counted if s.startswith("model:")}
    rows = connection.execute(_OPEN, {"keys": list(of_keys), "models": list(of_models)})
    running: dict[str, int] = {}
    for key_id, model, requests in rows:
        for subject in subjects_of(key_id, model):
            running[subject] = running.get(subject, 0) + requests
    return running


_OPEN = (
    select(_LEDGER.c.key_id, _LEDGER.c.model, func.count())
    .where(
        _LEDGER.c.outcome.is_(None),
        or_(
            _LEDGER.c.key_id.in_(bindparam("keys", expanding=True)),
            _LEDGER.c.model.in_(bindparam("models", expanding=True)),
        ),
    )
    .group_by(_LEDGER.c.key_id, _LEDGER.c.model)
)
