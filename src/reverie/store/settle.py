"""Settlements: the ledger's rows are closed here, with what really happened.

Rule 1: a row is closed once. Whatever closes it again changes nothing, so that a settlement may be
sent twice; only a row that was given up as ``lost`` may still learn the truth. If its request was
generated anew by then, under its ``Idempotency-Key``, it stays lost: only one of the two is billed.

Rule 2: the daily sums change in the transaction that closes the row, and by exactly its figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, bindparam, select, update

from reverie.store import answers
from reverie.store.database import schema
from reverie.store.database.prepared import Prepared, upsert_into
from reverie.store.limits import SPAN, day_of
from reverie.store.reserve import Price, subjects_of

_ANSWERS = schema.answers
_LEDGER = schema.ledger
_USAGE = schema.usage_daily
_WINDOWS = schema.limit_windows

Outcome: TypeAlias = Literal["ok", "length", "cancelled", "failed", "lost"]
_COMPLETE: frozenset[str] = frozenset({"ok", "length"})
_BILLED: frozenset[str] = frozenset({"ok", "length", "cancelled"})
"""Outcomes that cost something: what was delivered. Failures of ours are free."""


class Settlement(Struct, frozen=True, kw_only=True):
    """What became of one request. Times are milliseconds since 1970."""

    id: int
    outcome: Outcome
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    backend: str | None = None
    first_token_at: int | None = None
    ended_at: int
    limited: bool = True
    """Whether a limit is to get back what wasn't used."""
    answer: bytes | None = None
    """The whole answer as it was sent, where it is to be given again."""


class Checkpoint(Struct, frozen=True):
    """How far an open request has come."""

    id: int
    prompt_tokens: int
    completion_tokens: int
    first_token_at: int | None


class _Sums(Struct):
    """What one row adds to its day, or takes from it."""

    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0

    def add(self, outcome: str, figures: tuple[int, int, int, int], sign: int) -> None:
        self.requests += sign
        if outcome in ("cancelled", "failed", "lost"):
            setattr(self, outcome, getattr(self, outcome) + sign)
        self.prompt_tokens += sign * figures[0]
        self.cached_tokens += sign * figures[1]
        self.completion_tokens += sign * figures[2]
        self.cost += sign * figures[3]


_SumsKey: TypeAlias = tuple[str, int, str, str]
"""Key, day, model, currency: as ``usage_daily`` is keyed."""


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Close the rows of requests that have ended.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: nothing has happened.
    """
    rows = _locked(connection, [settlement.id for settlement in settlements])
    replaced = _replaced(connection, rows)
    sums: dict[_SumsKey, _Sums] = {}
    updates: list[dict[str, Any]] = []
    given_back: list[dict[str, Any]] = []
    kept: list[tuple[int, bytes | None]] = []
    for settlement in settlements:
        row = rows.pop(settlement.id, None)  # popped: a second one of the same row finds nothing
        if row is None or row.outcome not in (None, "lost"):
            continue
        if row.id in replaced:
            settlement = msgspec.structs.replace(settlement, outcome="lost", answer=None)
        price = Price(row.price_input, row.price_cached, row.price_output)
        tokens = (settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
        cost = price.of(*tokens) if settlement.outcome in _BILLED else 0
        day_sums = sums.setdefault(
            (row.key_id, day_of(row.created_at), row.model, row.currency), _Sums()
        )
        if row.outcome is not None:
            day_sums.add(row.outcome, _figures(row), -1)
        day_sums.add(settlement.outcome, (*tokens, cost), 1)
        updates.append(_closed(settlement, cost))
        if row.idempotency_key is not None and settlement.outcome in _COMPLETE:
            kept.append((row.id, settlement.answer))
        used = settlement.prompt_tokens + settlement.completion_tokens
        if settlement.limited and settlement.ended_at - row.created_at < SPAN * 1000:
            given_back += _difference(row, used - row.reserved_tokens)
    if updates:
        _CLOSE.execute_many(connection, updates)
        _add_to_days(connection, sums)
    if kept:
        answers.keep(connection, kept, max(s.ended_at for s in settlements))
    if given_back:
        _GIVE_BACK.execute_many(connection, sorted(given_back, key=_place))


def checkpoint(connection: Connection, checkpoints: Sequence[Checkpoint]) -> None:
    """Note how far open requests have come."""
    connection.execute(
        _CHECKPOINT,
        [
            {
                "row": c.id,
                "prompt_tokens": c.prompt_tokens,
                "completion_tokens": c.completion_tokens,
                "first_token_at": c.first_token_at,
            }
            for c in sorted(checkpoints, key=lambda c: c.id)
        ],
    )


def close_lost(connection: Connection, gateway_id: int, now: int) -> int:
    """Close the rows that a dead gateway left open, from their last checkpoints.

    Returns:
        How many there were.
    """
    rows = connection.execute(
        select(_LEDGER)
        .where(_LEDGER.c.gateway_id == gateway_id, _LEDGER.c.outcome.is_(None))
        .order_by(_LEDGER.c.id)
        .with_for_update()
    ).all()
    settle(
        connection,
        [
            Settlement(
                id=row.id,
                outcome="lost",
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                estimated=True,
                backend=row.backend,
                first_token_at=row.first_token_at,
                ended_at=now,
            )
            for row in rows
        ],
    )
    return len(rows)


def _locked(connection: Connection, ids: Sequence[int]) -> dict[int, Row[Any]]:
    return {row.id: row for row in _ROWS.execute(connection, listed=ids)} if ids else {}


def _replaced(connection: Connection, rows: Mapping[int, Row[Any]]) -> set[int]:
    """The lost ones among some rows whose idempotency keys belong to other rows by now."""
    lost = [
        row.id for row in rows.values() if row.outcome == "lost" and row.idempotency_key is not None
    ]
    return set(connection.scalars(_REPLACED, {"lost": lost})) if lost else set()


_REPLACED = (
    select(_LEDGER.c.id)
    .join(
        _ANSWERS,
        (_ANSWERS.c.key_id == _LEDGER.c.key_id)
        & (_ANSWERS.c.idempotency_key == _LEDGER.c.idempotency_key),
    )
    .where(
        _LEDGER.c.id.in_(bindparam("lost", expanding=True)), _ANSWERS.c.ledger_id != _LEDGER.c.id
    )
)
_ROWS = Prepared(
    lambda _, ids: (
        select(_LEDGER).where(_LEDGER.c.id.in_(ids)).order_by(_LEDGER.c.id).with_for_update()
    )
)


def _figures(row: Row[Any]) -> tuple[int, int, int, int]:
    return row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.cost


def _closed(settlement: Settlement, cost: int) -> dict[str, Any]:
    return {
        "row": settlement.id,
        "outcome": settlement.outcome,
        "prompt_tokens": settlement.prompt_tokens,
        "cached_tokens": settlement.cached_tokens,
        "completion_tokens": settlement.completion_tokens,
        "cost": cost,
        "estimated": settlement.estimated,
        "backend": settlement.backend,
        "first_token_at": settlement.first_token_at,
        "ended_at": settlement.ended_at,
    }


def _difference(row: Row[Any], tokens: int) -> Iterable[dict[str, Any]]:
    second = row.created_at // 1000
    return (
        {"of": subject, "at": second, "difference": tokens}
        for subject in subjects_of(row.key_id, row.model)
    )


def _place(window: Mapping[str, Any]) -> tuple[str, int]:
    """Windows are changed in one order everywhere, so that no two gateways wait on each other."""
    return window["of"], window["at"]


_CLOSE = Prepared(
    lambda *_: (
        update(_LEDGER)
        .where(_LEDGER.c.id == bindparam("row"))
        .values(
            {
                name: bindparam(name)
                for name in (
                    "outcome",
                    "prompt_tokens",
                    "cached_tokens",
                    "completion_tokens",
                    "cost",
                    "estimated",
                    "backend",
                    "first_token_at",
                    "ended_at",
                )
            }
        )
    )
)
_CHECKPOINT = (
    update(_LEDGER)
    .where(_LEDGER.c.id == bindparam("row"), _LEDGER.c.outcome.is_(None))
    .values(
        prompt_tokens=bindparam("prompt_tokens"),
        completion_tokens=bindparam("completion_tokens"),
        first_token_at=bindparam("first_token_at"),
    )
)
_GIVE_BACK = Prepared(
    lambda *_: (
        update(_WINDOWS)
        .where(_WINDOWS.c.subject == bindparam("of"), _WINDOWS.c.second == bindparam("at"))
        .values(tokens=_WINDOWS.c.tokens + bindparam("difference"))
    )
)


def _add_to_days(connection: Connection, sums: dict[_SumsKey, _Sums]) -> None:
    # In one order everywhere, so that no two gateways wait on each other's rows.
    _UPSERT_DAY.execute_many(
        connection,
        [
            {
                "key_id": key_id,
                "day": day,
                "model": model,
                "currency": currency,
                **{name: getattr(added, name) for name in _Sums.__struct_fields__},
            }
            for (key_id, day, model, currency), added in sorted(sums.items())
        ],
    )


def _upsert_day(dialect: str, _: object) -> Any:
    statement = upsert_into(dialect, _USAGE)
    return statement.on_conflict_do_update(
        index_elements=["key_id", "day", "model", "currency"],
        set_={name: _USAGE.c[name] + statement.excluded[name] for name in _Sums.__struct_fields__},
    )


_UPSERT_DAY = Prepared(_upsert_day)
