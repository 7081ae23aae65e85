"""The last requests of the ledger, newest first.

The ledger has no index on times: a gateway's rows are numbered in the order in which it admitted
them, and the gateways are few. So the newest rows of each are read by their numbers, beginning
with the gateway that was seen last, until no other can have a newer one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, select

from reverie.store.database import schema

_LEDGER = schema.ledger
_GATEWAYS = schema.gateways
_ROWS_OF_A_GATEWAY = 2**40
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


def last_requests(
    connection: Connection,
    limit: int,
    *,
    key_ids: Collection[str] | None = None,
    model: str | None = None,
) -> list[RequestRow]:
    """The newest rows, at most ``limit``, of these keys and this model; None: of all."""
    found: list[Row[Any]] = []
    gateways = select(_GATEWAYS.c.id, _GATEWAYS.c.seen_at).order_by(_GATEWAYS.c.seen_at.desc())
    for gateway in connection.execute(gateways).all():
        if len(found) == limit and gateway.seen_at + _SLACK_MS < found[-1].created_at:
            break
        first = gateway.id * _ROWS_OF_A_GATEWAY
        statement = (
            select(*_COLUMNS)
            .where(_LEDGER.c.id >= first, _LEDGER.c.id < first + _ROWS_OF_A_GATEWAY)
            .order_by(_LEDGER.c.id.desc())
            .limit(limit)
        )
        if key_ids is not None:
            statement = statement.where(_LEDGER.c.key_id.in_(key_ids))
        if model is not None:
            statement = statement.where(_LEDGER.c.model == model)
        found += connection.execute(statement).all()
        found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        del found[limit:]
    return [RequestRow(**row._mapping) for row in found]
