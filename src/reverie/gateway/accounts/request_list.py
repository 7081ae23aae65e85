"""The ledger's last requests, as an operator reads them."""

from __future__ import annotations

import re
from typing import Any, get_args

from msgspec import Struct
from sqlalchemy import Connection

from reverie.gateway.accounts.key_service import (
    InvalidInput,
    KeyNotFound,
    checked_name,
    checked_tag,
)
from reverie.money import format_amount
from reverie.store import history, keys, usage
from reverie.store.history import Moment, RequestRow
from reverie.store.settlements import LedgerOutcome
from reverie.times import format_moment

MOST = 10_000
"""No list is longer."""
OUTCOMES: tuple[str, ...] = ("running", *get_args(LedgerOutcome))


class RequestPage(Struct, frozen=True):
    """Some of the last requests, newest first."""

    requests: list[dict[str, Any]]
    """As JSON: money in nano-units, and as it is written."""
    has_more: bool
    last_id: str | None
    """What the next page comes after."""


def last_requests(
    connection: Connection,
    limit: int,
    *,
    key: str | None = None,
    model: str | None = None,
    tag: str | None = None,
    outcome: str | None = None,
    before: str | None = None,
) -> RequestPage:
    """The newest requests.

    Args:
        key: a key's name or id, or what a caller without a stored key is called.
        tag: a tag that its keys have now.
        outcome: one of ``OUTCOMES``; several with commas.
        before: the ``last_id`` of the page before this one.

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
    rows = history.last_requests(
        connection,
        limit + 1,
        key_ids=ids,
        model=model,
        tag=None if tag is None else checked_tag(tag, "tag"),
        outcomes=None if outcome is None else _outcomes(outcome),
        before=None if before is None else _place(connection, before),
    )
    shown = rows[:limit]
    names = {id: one.name for id, one in keys.by_ids(connection, {r.key_id for r in shown}).items()}
    return RequestPage(
        [_to_json(row, names.get(row.key_id)) for row in shown],
        has_more=len(rows) > limit,
        last_id=str(shown[-1].id) if shown else None,
    )


def _outcomes(written: str) -> list[str | None]:
    names = [name.strip() for name in written.split(",")]
    if any(name not in OUTCOMES for name in names):
        raise InvalidInput("outcome", f"write one or more of {','.join(OUTCOMES)}")
    return [None if name == "running" else name for name in names]


def _place(connection: Connection, written: str) -> Moment:
    number = int(written) if re.fullmatch("[0-9]{1,18}", written) else -1
    place = history.moment_of(connection, number)
    if place is None:
        raise InvalidInput("before", "write the last_id of the page before")
    return place


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
