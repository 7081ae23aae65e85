"""The last requests of the ledger, newest first.

The ledger has no index on times: a gateway's rows are numbered in the order in which it admitted
them, and the gateways are few. So the newest rows of each are read by their numbers, beginning
with the gateway that was seen last, until no other can have a newer one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import Connection, Row, and_, bindparam, or_, select
from sqlalchemy.sql.elements import ColumnElement

from reverie.store.database import schema
from reverie.store.database.schema import ROWS_OF_A_GATEWAY

_LEDGER = schema.ledger
_TAGS = schema.key_tags
_GATEWAYS = schema.gateways
_SLACK_MS = 60_000
"""How long after a gateway was last seen it may have admitted a request, clocks that differ
included."""


class RequestRow(Struct, frozen=True, kw_only=True):
    """One request. Times are milliseconds since 1970, money is nano-units."""

    id: int
    request_id: str
    key_id: str
    model: str
    backend: str | None
    outcome: str | None
    """None while it runs."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    cost: int
    currency: str
    created_at: int
    first_token_at: int | None
    ended_at: int | None


_COLUMNS = [_LEDGER.c[name] for name in RequestRow.__struct_fields__]


class Moment(NamedTuple):
    """A row's place in the order of the list."""

    created_at: int
    id: int


def moment_of(connection: Connection, id: int) -> Moment | None:
    """The place of a row; None: there is no such row."""
    row = connection.execute(
        select(_LEDGER.c.created_at, _LEDGER.c.id).where(_LEDGER.c.id == id)
    ).first()
    return None if row is None else Moment(row.created_at, row.id)


def last_requests(
    connection: Connection,
    limit: int,
    *,
    key_ids: Collection[str] | None = None,
    model: str | None = None,
    tag: str | None = None,
    outcomes: Collection[str | None] | None = None,
    before: Moment | None = None,
) -> list[RequestRow]:
    """The newest rows, at most ``limit``, of these keys, this model, keys with this tag, and these
    outcomes; None: of all.

    Args:
        before: the rows that come after this place of the list.
    """
    conditions = _conditions(key_ids, model, tag, outcomes, before)
    found: list[Row[Any]] = []
    gateways = select(_GATEWAYS).order_by(_GATEWAYS.c.seen_at.desc())
    for gateway in connection.execute(gateways).all():
        if len(found) == limit and gateway.seen_at + _SLACK_MS < found[-1].created_at:
            break
        first = gateway.id * ROWS_OF_A_GATEWAY
        end = first + ROWS_OF_A_GATEWAY
        if before is not None:
            end = _begun_by(connection, first, end, before.created_at + _SLACK_MS)
        statement = (
            select(*_COLUMNS)
            .where(_LEDGER.c.id >= first, _LEDGER.c.id < end, *conditions)
            .order_by(_LEDGER.c.id.desc())
            .limit(limit)
        )
        found += connection.execute(statement).all()
        found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        del found[limit:]
    return [RequestRow(**row._mapping) for row in found]


def _conditions(
    key_ids: Collection[str] | None,
    model: str | None,
    tag: str | None,
    outcomes: Collection[str | None] | None,
    before: Moment | None,
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if key_ids is not None:
        conditions.append(_LEDGER.c.key_id.in_(key_ids))
    if model is not None:
        conditions.append(_LEDGER.c.model == model)
    if tag is not None:
        conditions.append(_LEDGER.c.key_id.in_(select(_TAGS.c.key_id).where(_TAGS.c.tag == tag)))
    if outcomes is not None:
        ended = [outcome for outcome in outcomes if outcome is not None]
        running = [_LEDGER.c.outcome.is_(None)] if None in outcomes else []
        conditions.append(or_(_LEDGER.c.outcome.in_(ended), *running))
    if before is not None:
        at = _LEDGER.c.created_at
        same = and_(at == before.created_at, _LEDGER.c.id < before.id)
        conditions.append(or_(at < before.created_at, same))
    return conditions


def _begun_by(connection: Connection, first: int, end: int, moment: int) -> int:
    """A number from ``first`` to ``end`` before which lie the gateway's rows that are older than
    that. Found by halves, so that a page far back doesn't read all that is newer."""
    newest = connection.execute(
        select(_LEDGER.c.id)
        .where(_LEDGER.c.id >= first, _LEDGER.c.id < end)
        .order_by(_LEDGER.c.id.desc())
        .limit(1)
    ).scalar()
    if newest is None:
        return first
    low, high = first, newest + 1
    while low < high:
        middle = (low + high) // 2
        at = connection.execute(_NEXT, {"id": middle, "end": newest + 1}).one()
        if at.created_at < moment:
            low = at.id + 1
        else:
            high = middle
    return low


_NEXT = (
    select(_LEDGER.c.id, _LEDGER.c.created_at)
    .where(_LEDGER.c.id >= bindparam("id"), _LEDGER.c.id < bindparam("end"))
    .order_by(_LEDGER.c.id)
    .limit(1)
)
"""The first row from that number on."""
