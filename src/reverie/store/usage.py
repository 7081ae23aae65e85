"""The daily sums of what was used, by key, model and currency: added to, and read.

Days are days since 1970 (UTC) on which requests began. A request counts once it has ended.
Reports read these sums alone, never the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct, structs
from sqlalchemy import Connection, Executable, Select, bindparam, func, literal, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from reverie.money import Period
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.prepared import add_into
from reverie.store.keys import Key
from reverie.store.limits import period_begin

Dimension: TypeAlias = Literal["key", "model", "day", "tag"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

_USAGE = schema.usage_daily
_LEDGER = schema.ledger
_TAGS = schema.key_tags
_COLUMNS = {"key": "key_id", "model": "model", "day": "day"}


class Counts(Struct):
    """Requests and their tokens.

    ``cancelled``, ``failed`` and ``lost`` are among ``requests``, cached tokens among the prompts'.
    """

    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


COUNTS = Counts.__struct_fields__


# Adding -----------------------------------------------------------------------------------


class DaySums(Counts):
    """What is added to one day's row; negative where something is taken back."""

    cost: int = 0

    def add(self, outcome: str, figures: tuple[int, int, int, int], sign: int = 1) -> None:
        """Add one request, or take it back.

        Args:
            figures: tokens of the prompt, cached ones, those of the completion; cost.
            sign: 1 or -1.
        """
        self.requests += sign
        if outcome in ("cancelled", "failed", "lost"):
            setattr(self, outcome, getattr(self, outcome) + sign)
        self.prompt_tokens += sign * figures[0]
        self.cached_tokens += sign * figures[1]
        self.completion_tokens += sign * figures[2]
        self.cost += sign * figures[3]


DayKey: TypeAlias = tuple[str, int, str, str]
"""Key, day, model, currency: the primary key of ``usage_daily``."""


def add_to_days(connection: Connection, sums: Mapping[DayKey, DaySums]) -> None:
    """Add to the days' rows, of which there is at least one.

    They change in one order everywhere, so that no two gateways deadlock.
    """
    _ADD.execute_many(
        connection,
        [
            {
                "key_id": key_id,
                "day": day,
                "model": model,
                "currency": currency,
                **structs.asdict(added),
            }
            for (key_id, day, model, currency), added in sorted(sums.items())
        ],
    )


_ADD = add_into(_USAGE)


# Reading ----------------------------------------------------------------------------------


class UsageQuery(Struct, frozen=True, kw_only=True):
    """Which sums are wanted."""

    by: tuple[Dimension, ...] = ("key",)
    since: int
    """The first day."""
    until: int
    """The last day."""
    key: str | None = None
    """A key's name or id, or what a caller without a stored key is called; see ``key_ids``."""
    model: str | None = None
    tag: str | None = None
    """A tag that keys have now, whenever they used something."""


class UsageGroup(Counts, kw_only=True):
    """The sums of one group, or of all groups."""

    group: tuple[str | int | None, ...] = ()
    """A key's id, a model's name, a day, a tag: in the order of ``UsageQuery.by``. None: no tag."""
    costs: dict[str, int] = {}
    """Currency → nano-units, without those that are zero."""

    def add(self, other: UsageGroup) -> None:
        """Add another group's sums."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for currency, nano in other.costs.items():
            self.costs[currency] = self.costs.get(currency, 0) + nano


def statement(query: UsageQuery, key_ids: Collection[str] | None = None) -> Select[Any]:
    """The SELECT that answers a query: one row for each group and currency.

    What a key with several tags used is in the row of each of them.

    Args:
        key_ids: what the sums call the query's key, if it is about one.
    """
    columns = [_COLUMNS[dimension] for dimension in query.by if dimension != "tag"]
    if "tag" not in query.by and query.tag is None:
        return _sums(query, columns, key_ids)
    # Tags are joined to sums by key: there are far fewer of these than rows of the table.
    by_key = _sums(query, dict.fromkeys(["key_id", *columns]), key_ids).order_by(None).subquery()
    dimensions = [
        _TAGS.c.tag if dimension == "tag" else by_key.c[_COLUMNS[dimension]]
        for dimension in query.by
    ]
    grouped = [*dimensions, by_key.c.currency]
    sums = [func.sum(by_key.c[name]).label(name) for name in (*COUNTS, "cost")]
    joined = select(*grouped, *sums)
    if "tag" in query.by:
        joined = joined.outerjoin_from(by_key, _TAGS, _TAGS.c.key_id == by_key.c.key_id)
    if query.tag is not None:
        having = _TAGS.alias()
        same_key = select(having.c.tag).where(having.c.key_id == by_key.c.key_id)
        joined = joined.where(same_key.where(having.c.tag == query.tag).exists())
    return joined.group_by(*grouped).order_by(*grouped)


def _sums(
    query: UsageQuery, columns: Iterable[str], key_ids: Collection[str] | None
) -> Select[Any]:
    """The sums by these columns and the currency, of all but the query's tag."""
    dimensions = [_USAGE.c[name] for name in columns]
    sums = [func.sum(_USAGE.c[name]).label(name) for name in (*COUNTS, "cost")]
    conditions: list[ColumnElement[bool]] = [
        _USAGE.c.day >= query.since,
        _USAGE.c.day <= query.until,
    ]
    if key_ids is not None:
        conditions.append(_USAGE.c.key_id.in_(key_ids))
    if query.model is not None:
        conditions.append(_USAGE.c.model == query.model)
    return (
        select(*dimensions, _USAGE.c.currency, *sums)
        .where(*conditions)
        .group_by(*dimensions, _USAGE.c.currency)
        .order_by(*dimensions, _USAGE.c.currency)
    )


def groups(connection: Connection, query: UsageQuery) -> list[UsageGroup] | None:
    """The sums of each group that has any, in the order of the groups.

    None: the query is about a key that is neither stored nor ever used anything.
    """
    ids = None if query.key is None else key_ids(connection, query.key)
    if ids is not None and not ids:
        return None
    return groups_of(connection, query, ids)


def groups_of(
    connection: Connection, query: UsageQuery, ids: Collection[str] | None
) -> list[UsageGroup]:
    """As ``groups``, of the keys that the sums call by these names; None: of all."""
    found: dict[tuple[str | int | None, ...], UsageGroup] = {}
    for row in connection.execute(statement(query, ids)):
        columns = row._mapping
        group = tuple(row[: len(query.by)])
        cost = int(columns["cost"])  # PostgreSQL's sums of 64-bit integers are decimals
        sums = UsageGroup(costs={columns["currency"]: cost} if cost else {})
        for name in COUNTS:
            setattr(sums, name, int(columns[name]))
        found.setdefault(group, UsageGroup(group=group)).add(sums)
    return list(found.values())


def total(uses: Iterable[UsageGroup]) -> UsageGroup:
    """All groups together. Groups by tag share requests, so that this counts some twice."""
    whole = UsageGroup()
    for use in uses:
        whole.add(use)
    return whole


def key_ids(connection: Connection, name_or_id: str) -> tuple[str, ...]:
    """What the sums call a key: the id of every stored key of that name, or the name itself.

    Empty if no stored key has the name and no caller of that name used anything.
    """
    if found := keys.find(connection, name_or_id):
        return tuple(key.id for key in found)
    known = select(literal(1)).where(_USAGE.c.key_id == name_or_id).limit(1)
    return () if connection.execute(known).first() is None else (name_or_id,)


def spent(connection: Connection, budgeted: Sequence[Key], now: int) -> dict[str, int]:
    """What keys have spent of their budgets in the current period.

    Args:
        now: milliseconds since 1970.

    Returns:
        Key's id → nano-units of its budget's currency. A key that has spent nothing has no entry.
    """
    return _money(connection, budgeted, now, _SPENT)


def spent_and_reserved(connection: Connection, budgeted: Sequence[Key], now: int) -> dict[str, int]:
    """As ``spent``, with what is set aside for open requests.

    One statement reads both: a request that ends between two would count twice, or not at all.
    """
    return _money(connection, budgeted, now, _SPENT_AND_RESERVED)


def _money(
    connection: Connection, budgeted: Sequence[Key], now: int, statement: Executable
) -> dict[str, int]:
    money: dict[str, int] = {}
    for period in get_args(Period):
        those = [key for key in budgeted if (key.budget_period or "month") == period]
        currencies = {key.id: key.currency for key in those}
        if currencies:
            since = period_begin(period, now / 1000)
            rows = connection.execute(statement, {"ids": list(currencies), "since": since})
            for id, currency, cost in rows:
                if currency == currencies[id]:
                    money[id] = money.get(id, 0) + int(cost)
    return money


_SPENT = (
    select(_USAGE.c.key_id, _USAGE.c.currency, func.sum(_USAGE.c.cost))
    .where(
        _USAGE.c.key_id.in_(bindparam("ids", expanding=True)), _USAGE.c.day >= bindparam("since")
    )
    .group_by(_USAGE.c.key_id, _USAGE.c.currency)
)
_SPENT_AND_RESERVED = union_all(
    _SPENT,
    select(_LEDGER.c.key_id, _LEDGER.c.currency, func.sum(_LEDGER.c.reserved_cost))
    .where(_LEDGER.c.key_id.in_(bindparam("ids", expanding=True)), _LEDGER.c.outcome.is_(None))
    .group_by(_LEDGER.c.key_id, _LEDGER.c.currency),
)
