"""Settlements: a request's row of the ledger is closed here, with what really happened.

Rule 1: a row is closed once. Closing it again changes nothing, so a settlement may be sent twice.
Only a row that was given up as ``lost`` may be corrected later. It stays lost if its request was
generated anew in the meantime, under its ``Idempotency-Key``, or may have been, since the claim was
forgotten: only one of the two is billed.

Rule 2: the daily sums change in the transaction that closes the row, and by exactly its figures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct, structs
from sqlalchemy import Connection, bindparam, select, update

from reverie.store import answers
from reverie.store.database import schema
from reverie.store.database.prepared import Prepared
from reverie.store.ledger_rows import LedgerRow, to_amend, to_close
from reverie.store.usage import DayKey, DaySums, add_to_days
from reverie.store.windows import Corrections, subjects_of
from reverie.times import day_of

_LEDGER = schema.ledger

LedgerOutcome: TypeAlias = Literal["ok", "length", "cancelled", "failed", "lost"]
_COMPLETE: frozenset[str] = frozenset({"ok", "length"})
BILLED: frozenset[str] = frozenset({"ok", "length", "cancelled"})
"""Outcomes that are billed, for what was delivered. Failures of ours are free."""


class Settlement(Struct, frozen=True, kw_only=True):
    """What became of one request. Times are milliseconds since 1970."""

    id: int
    outcome: LedgerOutcome
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    backend: str | None = None
    first_token_at: int | None = None
    ended_at: int
    subjects: tuple[str, ...] | None = None
    """Whose limits get back the tokens that it didn't use; None: whoever counted them."""
    answer: bytes | None = None
    """The whole answer as it was sent, if it may be replayed."""


_REPORTED = tuple(
    name for name in Settlement.__struct_fields__ if name != "id" and name in _LEDGER.c
)
"""Fields of a settlement that are columns of its row."""


class Checkpoint(Struct, frozen=True):
    """How far an open request has come."""

    row: int
    prompt_tokens: int
    completion_tokens: int
    first_token_at: int | None


class Amendment(Struct, frozen=True):
    """What an open request may really come to, once its engine has told its prompt's size."""

    row: int
    reserved_tokens: int
    reserved_cost: int
    subjects: tuple[str, ...] | None = None
    """As in ``Settlement``."""


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Close the rows of requests that have ended.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: nothing has happened.
    """
    rows = to_close(connection, [settlement.id for settlement in settlements])
    replaced = _replaced(connection, rows)
    sums: dict[DayKey, DaySums] = {}
    updates: list[dict[str, Any]] = []
    corrections = Corrections()
    kept: list[tuple[int, bytes | None]] = []
    for settlement in settlements:
        row = rows.pop(settlement.id, None)  # popped, so that each row is closed once
        if row is None or row.outcome not in (None, "lost"):
            continue
        if row.id in replaced:
            settlement = structs.replace(settlement, outcome="lost", answer=None)
        tokens = (settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
        cost = row.price.cost(*tokens) if settlement.outcome in BILLED else 0
        day_sums = sums.setdefault(
            (row.key_id, day_of(row.created_at), row.model, row.price.currency), DaySums()
        )
        if row.outcome is not None:
            day_sums.add(row.outcome, row.figures, -1)
        day_sums.add(settlement.outcome, (*tokens, cost))
        updates.append({**structs.asdict(settlement), "row": row.id, "cost": cost})
        if row.idempotency_key is not None and settlement.outcome in _COMPLETE:
            kept.append((row.id, settlement.answer))
        used = settlement.prompt_tokens + settlement.completion_tokens
        subjects = _counting(row, settlement.subjects)
        corrections.add(subjects, row.created_at // 1000, used - row.counted_tokens)
    if updates:
        _CLOSE.execute_many(connection, updates)
        add_to_days(connection, sums)
    if kept:
        answers.keep(connection, kept, max(s.ended_at for s in settlements))
    corrections.write(connection)


def amend(connection: Connection, amendments: Sequence[Amendment]) -> None:
    """Give back what was reserved for open requests and won't be needed.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: nothing has happened.
    """
    rows = to_amend(connection, [amendment.row for amendment in amendments])
    updates: list[dict[str, Any]] = []
    corrections = Corrections()
    for amendment in amendments:
        row = rows.get(amendment.row)
        if row is None or row.outcome is not None:
            continue
        updates.append(structs.asdict(amendment))
        difference = amendment.reserved_tokens - row.reserved_tokens
        row.reserved_tokens = amendment.reserved_tokens
        subjects = _counting(row, amendment.subjects)
        corrections.add(subjects, row.created_at // 1000, difference)
    if updates:
        connection.execute(_AMEND, updates)
        corrections.write(connection)


def checkpoint(connection: Connection, checkpoints: Sequence[Checkpoint]) -> None:
    """Note how far open requests have come; there is at least one."""
    ordered = sorted(checkpoints, key=lambda one: one.row)
    _CHECKPOINT.execute_many(connection, map(structs.asdict, ordered))


def close_lost(
    connection: Connection, gateway_id: int, now: int, *, among: Collection[int] | None = None
) -> int:
    """Close the rows that a dead gateway left open, as of their last checkpoints.

    Args:
        among: only these.

    Returns:
        The number of these rows.
    """
    theirs = select(_LEDGER).where(_LEDGER.c.gateway_id == gateway_id, _LEDGER.c.outcome.is_(None))
    if among is not None:
        theirs = theirs.where(_LEDGER.c.id.in_(among))
    rows = connection.execute(theirs.order_by(_LEDGER.c.id).with_for_update()).all()
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


def _counting(row: LedgerRow, known: tuple[str, ...] | None) -> tuple[str, ...]:
    """The subjects that counted a row's request, or all that may have."""
    return subjects_of(row.key_id, row.model) if known is None else known


def _replaced(connection: Connection, rows: Mapping[int, LedgerRow]) -> set[int]:
    """Those of the rows that are lost and whose idempotency keys belong to other rows by now.

    So may those whose keys nobody holds any more, for all that is known.
    """
    claimed = {
        row.id: (row.key_id, row.idempotency_key)
        for row in rows.values()
        if row.outcome == "lost" and row.idempotency_key is not None
    }
    if not claimed:
        return set()
    answers.lock_claims(connection, claimed.values())
    return claimed.keys() - answers.holding(connection, claimed)


_CLOSE = Prepared(
    lambda *_: (
        update(_LEDGER)
        .where(_LEDGER.c.id == bindparam("row"))
        .values({name: bindparam(name) for name in (*_REPORTED, "cost")})
    )
)
_CHECKPOINT = Prepared(
    lambda *_: (
        update(_LEDGER)
        .where(_LEDGER.c.id == bindparam("row"), _LEDGER.c.outcome.is_(None))
        .values(
            prompt_tokens=bindparam("prompt_tokens"),
            completion_tokens=bindparam("completion_tokens"),
            first_token_at=bindparam("first_token_at"),
        )
    )
)
_AMEND = (
    update(_LEDGER)
    .where(_LEDGER.c.id == bindparam("row"))
    .values(reserved_tokens=bindparam("reserved_tokens"), reserved_cost=bindparam("reserved_cost"))
)
