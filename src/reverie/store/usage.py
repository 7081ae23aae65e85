"""What was used, by key, model and day: asked of the daily sums alone, never of the ledger.

Days are days since 1970 (UTC), of the moments at which requests began. A request counts once it
has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct
from sqlalchemy import Connection, Select, func, literal, select
from sqlalchemy.sql.elements import ColumnElement

from reverie.money import Period
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.keys import Key
from reverie.store.limits import period_begin

Dimension: TypeAlias = Literal["key", "model", "day"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
FIGURES = (
    "requests",
    "cancelled",
    "failed",
    "lost",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)
"""``cancelled``, ``failed`` and ``lost`` are among ``requests``; cached tokens among prompt's."""

_USAGE = schema.usage_daily
_COLUMNS = {"key": _USAGE.c.key_id, "model": _USAGE.c.model, "day": _USAGE.c.day}


class Question(Struct, frozen=True, kw_only=True):
    """Which sums are wanted."""

    by: tuple[Dimension, ...] = ("key",)
    since: int
    """The first day."""
    until: int
    """The last day."""
    key_ids: tuple[str, ...] | None = None
    model: str | None = None


class Use(Struct, kw_only=True):
    """The sums of one group, or of all of them."""

    group: tuple[str | int, ...] = ()
    """A key's id, a model's name, a day: in the order of ``Question.by``."""
    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    costs: dict[str, int] = {}
    """Currency → nano-units; what costs nothing isn't in it."""

    def add(self, other: Use) -> None:
        for figure in FIGURES:
            setattr(self, figure, getattr(self, figure) + getattr(other, figure))
        for currency, nano in other.costs.items():
            self.costs[currency] = self.costs.get(currency, 0) + nano


def statement(question: Question) -> Select[Any]:
    """The query that answers a question; one row for each group and currency."""
    dimensions = [_COLUMNS[dimension] for dimension in question.by]
    sums = [func.sum(_USAGE.c[name]).label(name) for name in (*FIGURES, "cost")]
    conditions: list[ColumnElement[bool]] = [
        _USAGE.c.day >= question.since,
        _USAGE.c.day <= question.until,
    ]
    if question.key_ids is not None:
        conditions.append(_USAGE.c.key_id.in_(question.key_ids))
    if question.model is not None:
        conditions.append(_USAGE.c.model == question.model)
    return (
        select(*dimensions, _USAGE.c.currency, *sums)
        .where(*conditions)
        .group_by(*dimensions, _USAGE.c.currency)
        .order_by(*dimensions, _USAGE.c.currency)
    )


def ask(connection: Connection, question: Question) -> list[Use]:
    """The sums of each group that has any, in the order of the groups."""
    found: dict[tuple[str | int, ...], Use] = {}
    for row in connection.execute(statement(question)):
        columns = row._mapping
        group = tuple(row[: len(question.by)])
        cost = int(columns["cost"])  # PostgreSQL's sums of 64 bits are decimals
        use = Use(costs={columns["currency"]: cost} if cost else {})
        for figure in FIGURES:
            setattr(use, figure, int(columns[figure]))
        found.setdefault(group, Use(group=group)).add(use)
    return list(found.values())


def total(uses: Iterable[Use]) -> Use:
    """All of them together."""
    whole = Use()
    for use in uses:
        whole.add(use)
    return whole


def key_ids(connection: Connection, name_or_id: str) -> tuple[str, ...]:
    """What the sums call a key: every stored key of that name, or the caller of that very name.

    Empty if neither is known.
    """
    if found := keys.find(connection, name_or_id):
        return tuple(key.id for key in found)
    known = select(literal(1)).where(_USAGE.c.key_id == name_or_id).limit(1)
    return () if connection.execute(known).first() is None else (name_or_id,)


# Budgets ----------------------------------------------------------------------------------


def spent(connection: Connection, budgeted: Sequence[Key], now: int) -> dict[str, int]:
    """What keys have spent of their budgets in the running period.

    Args:
        now: milliseconds since 1970.

    Returns:
        Key's id → nano-units of its budget's currency; a key that has spent nothing isn't in it.
    """
    money: dict[str, int] = {}
    for period in get_args(Period):
        those = {key.id: key.currency for key in budgeted if key.budget_period == period}
        if not those:
            continue
        rows = connection.execute(
            select(_USAGE.c.key_id, _USAGE.c.currency, func.sum(_USAGE.c.cost))
            .where(
                _USAGE.c.key_id.in_(list(those)), _USAGE.c.day >= period_begin(period, now / 1000)
            )
            .group_by(_USAGE.c.key_id, _USAGE.c.currency)
        )
        money |= {id: int(cost) for id, currency, cost in rows if currency == those[id]}
    return money
