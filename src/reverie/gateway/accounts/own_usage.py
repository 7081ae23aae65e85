"""What the holder of a key may know of it: its limits, what is left of them, what it has spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, func, select

from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.key_service import describe
from reverie.gateway.accounts.usage_report import UsageReport, parse_query, sums
from reverie.money import format_amount
from reverie.store import keys, usage, windows
from reverie.store.database import schema
from reverie.store.database.coordination import clock_ms
from reverie.store.keys import Key
from reverie.store.limits import NOTHING_USED, LimitUsage, RateLimits, period_end
from reverie.store.usage import UsageQuery as UsageQuery
from reverie.store.windows import subjects_of
from reverie.times import day_of, first_of_month, format_day, format_moment

_LEDGER = schema.ledger


def own_query(
    by: Sequence[str], since: str | None, until: str | None, now: int
) -> UsageQuery | None:
    """What a holder asks of its own use; None: nothing in particular.

    Raises:
        InvalidInput: its field is the argument that is wrong.
    """
    if not by and since is None and until is None:
        return None
    return parse_query(by, since, until, None, None, None, now, dimensions=("model", "day"))


def own_usage(
    connection: Connection,
    caller: Caller,
    models: Mapping[str, str],
    now: int,
    query: UsageQuery | None = None,
) -> dict[str, Any]:
    """The view of one caller, as JSON. Nothing in it is another's.

    Args:
        models: each name that a model has → the one that it is counted by.
        now: milliseconds since 1970.
        query: days and dimensions of what the caller wants to know besides.
    """
    key = keys.by_ids(connection, {caller.key_id}).get(caller.key_id) if caller.stored else None
    today = day_of(now)
    month = first_of_month(today)
    view: dict[str, Any] = {
        "object": "usage",
        "key": {"id": caller.key_id, "name": caller.name},
        "left": {},
        "today": _spent(connection, caller, today, today),
        "month": _spent(connection, caller, month, today),
    }
    if key is not None:
        (view["key"],) = describe(connection, [key], now)
        view["left"] = _left(connection, key, models, clock_ms(connection))
    if query is not None:
        groups = usage.groups_of(connection, query, (caller.key_id,))
        report = UsageReport(query, groups, usage.total(groups), {})
        view |= {"since": report.first, "until": report.last, "rows": report.rows()}
    return view


def _left(connection: Connection, key: Key, models: Mapping[str, str], now: int) -> dict[str, Any]:
    left = _of_limits(connection, f"key:{key.id}", key.limits, now)
    if key.limits.concurrency is not None:
        left["concurrency"] = max(0, key.limits.concurrency - _running(connection, key.id))
    for model, limits in key.model_limits.items():
        _, subject, _ = subjects_of(key.id, models.get(model, model))
        left.setdefault("models", {})[model] = _of_limits(connection, subject, limits, now)
    if key.budget is not None and key.currency is not None and key.budget_period is not None:
        nano = max(0, key.budget - usage.spent_and_reserved(connection, [key], now).get(key.id, 0))
        left["budget_nano"] = nano
        left["budget"] = format_amount(nano, key.currency)
        left["budget_resets_at"] = format_moment(
            int(period_end(key.budget_period, now / 1000) * 1000)
        )
    return left


def _of_limits(
    connection: Connection, subject: str, limits: RateLimits, now: int
) -> dict[str, Any]:
    second = now // 1000
    used = windows.sums(connection, [subject], second).get(subject, NOTHING_USED)
    status = structs.asdict(LimitUsage("", limits, used).status(now / 1000))
    return {
        kind: {"left": status[f"remaining_{kind}"], "resets_in_s": round(status[f"reset_{kind}"])}
        for kind in ("requests", "tokens")
        if status[f"remaining_{kind}"] is not None
    }


def _running(connection: Connection, key_id: str) -> int:
    """How many requests of a key are open."""
    open_rows = select(func.count()).where(_LEDGER.c.outcome.is_(None), _LEDGER.c.key_id == key_id)
    return connection.execute(open_rows).scalar_one()


def _spent(connection: Connection, caller: Caller, since: int, until: int) -> dict[str, Any]:
    query = UsageQuery(by=("model",), since=since, until=until)
    groups = usage.groups_of(connection, query, (caller.key_id,))
    return {
        "since": format_day(since),
        "until": format_day(until),
        "by_model": [{"model": group.group[0], **sums(group)} for group in groups],
        "total": sums(usage.total(groups)),
    }
