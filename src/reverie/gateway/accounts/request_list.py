"""The ledger's last requests, as an operator reads them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from reverie.gateway.accounts.key_service import InvalidInput, KeyNotFound, checked_name
from reverie.money import format_amount
from reverie.store import history, keys, usage
from reverie.store.history import RequestRow
from reverie.times import format_moment

MOST = 10_000
"""No list is longer."""


def last_requests(
    connection: Connection, limit: int, key: str | None = None, model: str | None = None
) -> list[dict[str, Any]]:
    """The newest requests first, as JSON: money in nano-units, and as it is written.

    Args:
        key: a key's name or id, or what a caller without a stored key is called.

    Raises:
        InvalidInput: its field is the argument that is wrong.
        KeyNotFound: the key is neither in the store nor did it ever use anything.
    """
    if not 1 <= limit <= MOST:
        raise InvalidInput("limit", f"write a number from 1 to {MOST}")
    model = None if model is None else checked_name(model, "model")
    ids = None
    if key is not None:
        ids = usage.key_ids(connection, checked_name(key, "key"))
        if not ids:
            raise KeyNotFound("key", f"there is no key {key}")
    rows = history.last_requests(connection, limit, key_ids=ids, model=model)
    names = {id: one.name for id, one in keys.by_ids(connection, {r.key_id for r in rows}).items()}
    return [_to_json(row, names.get(row.key_id)) for row in rows]


def _to_json(row: RequestRow, name: str | None) -> dict[str, Any]:
    return {
        "request_id": row.request_id,
        "at": format_moment(row.created_at),
        "key": row.key_id,
        "name": name,
        "model": row.model,
        "backend": row.backend,
        "outcome": row.outcome or "running",
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "estimated": row.estimated,
        "cost_nano": row.cost,
        "cost": format_amount(row.cost, row.currency),
        "currency": row.currency,
        "ttft_ms": _span(row.created_at, row.first_token_at),
        "duration_ms": _span(row.created_at, row.ended_at),
    }


def _span(begin: int, end: int | None) -> int | None:
    return None if end is None else max(0, end - begin)
