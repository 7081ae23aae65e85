"""Rows of the ledger: opened, and found again to be changed.

Rule: a row is locked from when it is found until the transaction ends. SQLite's write lock is one
on all rows, so that a writer there knows the rows that it opened, and needn't read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Integer, Row, false, literal_column, null, select

from reverie.money import Price
from reverie.store.database import schema
from reverie.store.database.known import known
from reverie.store.database.prepared import Prepared, insert_into

_LEDGER = schema.ledger


class LedgerRow(Struct):
    """What a row holds that its changes depend on."""

    id: int
    key_id: str
    model: str
    idempotency_key: str | None
    reserved_tokens: int
    price: Price
    created_at: int
    outcome: str | None = None
    figures: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Once it is closed: tokens of the prompt, cached ones, those of the completion; cost."""

    @property
    def counted_tokens(self) -> int:
        """What the limits per minute count it as."""
        prompt, _, completion, _ = self.figures
        return self.reserved_tokens if self.outcome is None else prompt + completion


class _Known(dict[int, LedgerRow]):
    """The rows that a writer opened and nobody has closed, by their numbers."""


def insert(
    connection: Connection,
    rows: Sequence[tuple[LedgerRow, str, int]],
    gateway_id: int,
) -> None:
    """Open rows, of which there is at least one.

    Args:
        rows: each with its request's id, and the cost that is reserved for it.
    """
    _OPEN.execute_many(
        connection,
        [
            {
                "id": row.id,
                "request_id": request_id,
                "gateway_id": gateway_id,
                "key_id": row.key_id,
                "model": row.model,
                "idempotency_key": row.idempotency_key,
                "reserved_tokens": row.reserved_tokens,
                "reserved_cost": cost,
                "price_input": row.price.input,
                "price_cached": row.price.cached,
                "price_output": row.price.output,
                "currency": row.price.currency,
                "created_at": row.created_at,
            }
            for row, request_id, cost in rows
        ],
    )
    if (kept := known(connection, _Known)) is not None:
        kept.update({row.id: row for row, *_ in rows})


def to_amend(connection: Connection, ids: Sequence[int]) -> dict[int, LedgerRow]:
    """Rows by their numbers. Whoever changes one's ``reserved_tokens`` sets them here, too."""
    kept = known(connection, _Known)
    if kept is None:
        return _read(connection, ids)
    found = {id: kept[id] for id in ids if id in kept}
    return found | _read(connection, [id for id in ids if id not in found])


def to_close(connection: Connection, ids: Sequence[int]) -> dict[int, LedgerRow]:
    """Rows by their numbers. Those that are open must be closed in this transaction."""
    kept = known(connection, _Known)
    if kept is None:
        return _read(connection, ids)
    found = {id: kept.pop(id) for id in ids if id in kept}
    return found | _read(connection, [id for id in ids if id not in found])


def _read(connection: Connection, ids: Sequence[int]) -> dict[int, LedgerRow]:
    rows = _ROWS.execute(connection, listed=ids) if ids else ()
    return {row.id: _of(row) for row in rows}


def _of(row: Row[Any]) -> LedgerRow:
    return LedgerRow(
        row.id,
        row.key_id,
        row.model,
        row.idempotency_key,
        row.reserved_tokens,
        Price(row.price_input, row.price_cached, row.price_output, row.currency),
        row.created_at,
        row.outcome,
        (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.cost),
    )


_ROWS = Prepared(
    lambda _, ids: (
        select(_LEDGER).where(_LEDGER.c.id.in_(ids)).order_by(_LEDGER.c.id).with_for_update()
    )
)
_ZERO = literal_column("0", Integer)
_OPEN = insert_into(
    _LEDGER,
    backend=null(),
    prompt_tokens=_ZERO,
    cached_tokens=_ZERO,
    completion_tokens=_ZERO,
    cost=_ZERO,
    estimated=false(),
    outcome=null(),
    first_token_at=null(),
    ended_at=null(),
)
