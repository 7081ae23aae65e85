"""Answers of requests that carried an ``Idempotency-Key``: claimed, kept, given again.

A claim is made in the transaction that opens a request's row of the ledger, and its answer is kept
in the one that closes it. So a request is generated once, billed once, and its answer is there
exactly if its row says that it was completed. A claim whose request ended otherwise stays as a mark
that there was one, until it is made anew or a day old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from reverie.errors import AnswerNotKept, IdempotencyKeyReused, RequestInProgress, ReverieError
from reverie.store.database import schema

_ANSWERS = schema.answers
_LEDGER = schema.ledger


class Claim(Struct, frozen=True):
    """Who asks for what under which key."""

    key: str
    """The ``Idempotency-Key``, in the scope of the API key."""
    fingerprint: bytes
    """Of the request's body and the dialect that it was sent in."""
    after: int = 0
    """The number of the last event that the client has; 0: none, it begins."""


class StoredAnswer(Struct, frozen=True):
    """A complete answer, as it was sent. It may be large: see ``body``."""

    row: int
    """Of the ledger."""


def find(
    connection: Connection, wanted: Mapping[tuple[str, str], Claim], expired_before: int
) -> dict[tuple[str, str], StoredAnswer | ReverieError | None]:
    """What stands in the way of new claims: kept answers, running requests, misused keys.

    Args:
        wanted: (API key's id, idempotency key) → claim.
        expired_before: answers made before this moment are no more, in ms since 1970.

    Returns:
        None where nothing does, but something did before. A place without a past isn't in it.
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
            found[place] = None if row.created_at < expired_before else _state(row, claim)
    return found


def body(connection: Connection, row: int) -> bytes | None:
    """The answer of a row of the ledger, if it is still kept."""
    found: bytes | None = connection.execute(_BODY, {"row": row}).scalar_one_or_none()
    return found


def claim(
    connection: Connection, claims: Sequence[tuple[str, Claim, int]], created_at: int
) -> None:
    """Enter claims of (API key's id, claim, ledger row), in place of what has expired or failed."""
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
    """Keep complete answers, of (ledger row, body); None is one too large to be kept."""
    connection.execute(
        _KEEP,
        [{"row": row, "body": body, "finished_at": now} for row, body in answers],
    )


def sweep(connection: Connection, expired_before: int) -> None:
    """Forget old answers, of requests that have ended."""
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
    """When the newest of the answers was claimed without which the others have ``limit`` bytes at
    most, in ms since 1970; None: all have their place.
    """
    found: int | None = connection.execute(_PAST, {"limit": limit}).scalar_one()
    return found


def evict(connection: Connection, until: int) -> None:
    """Drop the answers that were claimed until then, as if they had expired."""
    connection.execute(
        update(_ANSWERS)
        .where(_ANSWERS.c.created_at <= until, _ANSWERS.c.body.is_not(None))
        .values(body=None, finished_at=None)
    )


def _state(row: Any, claim: Claim) -> StoredAnswer | ReverieError | None:
    """What a row means to a new claim; None: nothing, it may be replaced."""
    if row.finished_at is None and row.outcome is not None:
        return None  # it ended without an answer
    if row.fingerprint != claim.fingerprint:
        return IdempotencyKeyReused()
    if row.finished_at is None:
        return RequestInProgress()
    return StoredAnswer(row.ledger_id) if row.has_body else AnswerNotKept()


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
# In a query of their own, or SQLite would carry the bodies themselves through the sum.
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
_BODY = select(_ANSWERS.c.body).where(_ANSWERS.c.ledger_id == bindparam("row"))
_REMOVE = delete(_ANSWERS).where(
    _ANSWERS.c.key_id == bindparam("of"), _ANSWERS.c.idempotency_key == bindparam("key")
)
_KEEP = (
    update(_ANSWERS)
    .where(_ANSWERS.c.ledger_id == bindparam("row"))
    .values(body=bindparam("body"), finished_at=bindparam("finished_at"))
)
