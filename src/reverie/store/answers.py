"""Answers to requests that carried an ``Idempotency-Key``: claimed, stored, replayed.

A claim is made in the transaction that opens a request's row of the ledger, and its answer is
stored in the transaction that closes the row. So a request is generated once and billed once, and
its answer exists if and only if its row says that it was completed. The claim of a request that
ended otherwise stays, as a mark that there was one, until it is claimed anew or a day old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from reverie.errors import AnswerNotKept, IdempotencyKeyReused, RequestInProgress, ReverieError
from reverie.store.database import schema
from reverie.store.database.coordination import lock

ANSWERS_KEPT_MS = 24 * 3600 * 1000
"""For how long an answer is replayed."""

_ANSWERS = schema.answers
_LEDGER = schema.ledger


class Claim(Struct, frozen=True):
    """What a request with an ``Idempotency-Key`` asks for."""

    key: str
    """The ``Idempotency-Key``, which is scoped to the API key."""
    fingerprint: bytes | None
    """A hash of the request's body and of its dialect; None: whatever it was."""
    after: int = 0
    """The number of the last event that the client has; 0: it has none."""


class StoredAnswer(Struct, frozen=True):
    """A complete answer. Its bytes may be many: see ``body``."""

    row: int
    """Its request's row of the ledger."""
    fingerprint: bytes


def fresh_event_base(now: float) -> int:
    """A number that no earlier stream of the same claim began at or has reached.

    Args:
        now: seconds since 1970; there are a million numbers for each second.
    """
    return int(now * 1000) * 1000


def lock_claims(connection: Connection, places: Iterable[tuple[str, str]]) -> None:
    """Let nobody else decide on claims, (API key's id, idempotency key), until this transaction
    ends."""
    lock(connection, [f"claim:{key_id}:{key}" for key_id, key in places])


def find(
    connection: Connection, wanted: Mapping[tuple[str, str], Claim], expired_before: int
) -> dict[tuple[str, str], StoredAnswer | ReverieError | None]:
    """What prevents new claims: stored answers, running requests, misused keys.

    Args:
        wanted: (API key's id, idempotency key) → claim.
        expired_before: claims from before this moment, in ms since 1970, no longer count.

    Returns:
        None where an earlier claim left nothing. No entry where there was no earlier claim.
    """
    if not wanted:
        return {}
    rows = connection.execute(
        _FOUND,
        {
            "key_ids": [key_id for key_id, _ in wanted],
            "keys": [key for _, key in wanted],
        },
    )
    found: dict[tuple[str, str], StoredAnswer | ReverieError | None] = {}
    for row in rows:
        place = (row.key_id, row.idempotency_key)
        if (claim := wanted.get(place)) is not None:
            found[place] = None if row.created_at < expired_before else _previous_result(row, claim)
    return found


def holding(connection: Connection, rows: Iterable[int]) -> set[int]:
    """Those of the ledger's rows that hold a claim."""
    return set(connection.scalars(_HOLDING, {"rows": list(rows)}))


def body(connection: Connection, row: int) -> bytes | None:
    """The answer to the request of a ledger row, if it is still stored."""
    found: bytes | None = connection.execute(_BODY, {"row": row}).scalar_one_or_none()
    return found


def claim(
    connection: Connection, claims: Sequence[tuple[str, Claim, int]], created_at: int
) -> None:
    """Insert claims (API key's id, claim, ledger row) in place of those that expired or failed."""
    rows = [
        {
            "key_id": key_id,
            "idempotency_key": wanted.key,
            "fingerprint": wanted.fingerprint,
            "ledger_id": row,
            "created_at": created_at,
        }
        for key_id, wanted, row in claims
    ]
    connection.execute(
        _REMOVE, [{"of": row["key_id"], "key": row["idempotency_key"]} for row in rows]
    )
    connection.execute(insert(_ANSWERS), rows)


def keep(connection: Connection, answers: Sequence[tuple[int, bytes | None]], now: int) -> None:
    """Store complete answers, (ledger row, body); None: the answer is too large to be stored."""
    connection.execute(
        _KEEP,
        [{"row": row, "body": body, "finished_at": now} for row, body in answers],
    )


def sweep(connection: Connection, expired_before: int) -> None:
    """Delete old answers and claims, unless their requests still run."""
    connection.execute(
        delete(_ANSWERS).where(
            _ANSWERS.c.created_at < expired_before,
            or_(
                _ANSWERS.c.finished_at.is_not(None),
                _ANSWERS.c.ledger_id.not_in(
                    select(_LEDGER.c.id).where(_LEDGER.c.outcome.is_(None))
                ),
            ),
        )
    )


def evictable_until(connection: Connection, limit: int) -> int | None:
    """The newest claim to evict, with all older ones, so that the rest fit into ``limit`` bytes.

    Returns:
        The moment of that claim, in ms since 1970; None: all of them fit.
    """
    found: int | None = connection.execute(_PAST, {"limit": limit}).scalar_one()
    return found


def evict(connection: Connection, until: int) -> None:
    """Drop the answers that were claimed by then, as if they had expired."""
    connection.execute(
        update(_ANSWERS)
        .where(_ANSWERS.c.created_at <= until, _ANSWERS.c.body.is_not(None))
        .values(body=None, finished_at=None)
    )


def _previous_result(row: Any, claim: Claim) -> StoredAnswer | ReverieError | None:
    """What a row means for a new claim; None: the claim may replace it."""
    if row.finished_at is None and row.outcome is not None:
        return None  # it ended without an answer
    if claim.fingerprint is not None and row.fingerprint != claim.fingerprint:
        return IdempotencyKeyReused()
    if row.finished_at is None:
        return RequestInProgress()
    return StoredAnswer(row.ledger_id, row.fingerprint) if row.has_body else AnswerNotKept()


_FOUND = (
    select(
        _ANSWERS.c.key_id,
        _ANSWERS.c.idempotency_key,
        _ANSWERS.c.fingerprint,
        _ANSWERS.c.created_at,
        _ANSWERS.c.finished_at,
        _ANSWERS.c.ledger_id,
        _ANSWERS.c.body.is_not(None).label("has_body"),
        _LEDGER.c.outcome,
    )
    .join(_LEDGER, _LEDGER.c.id == _ANSWERS.c.ledger_id)
    .where(
        _ANSWERS.c.key_id.in_(bindparam("key_ids", expanding=True)),
        _ANSWERS.c.idempotency_key.in_(bindparam("keys", expanding=True)),
    )
)
# In a subquery of its own, or SQLite would carry the bodies themselves through the sum.
_SIZES = (
    select(_ANSWERS.c.created_at, func.length(_ANSWERS.c.body).label("size"))
    .where(_ANSWERS.c.body.is_not(None))
    .subquery()
)
_SUMS = select(
    _SIZES.c.created_at,
    func.sum(_SIZES.c.size).over(order_by=_SIZES.c.created_at.desc()).label("total"),
).subquery()
_PAST = select(func.max(_SUMS.c.created_at)).where(_SUMS.c.total > bindparam("limit"))
_HOLDING = select(_ANSWERS.c.ledger_id).where(
    _ANSWERS.c.ledger_id.in_(bindparam("rows", expanding=True))
)
_BODY = select(_ANSWERS.c.body).where(_ANSWERS.c.ledger_id == bindparam("row"))
_REMOVE = delete(_ANSWERS).where(
    _ANSWERS.c.key_id == bindparam("of"), _ANSWERS.c.idempotency_key == bindparam("key")
)
_KEEP = (
    update(_ANSWERS)
    .where(_ANSWERS.c.ledger_id == bindparam("row"))
    .values(body=bindparam("body"), finished_at=bindparam("finished_at"))
)
