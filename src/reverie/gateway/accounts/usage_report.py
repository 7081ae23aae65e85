"""Usage reports, alike for the command line and for the admin API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from msgspec import Struct, structs
from sqlalchemy import Connection

from reverie.gateway.accounts.key_service import (
    InvalidInput,
    KeyNotFound,
    checked_name,
    checked_tag,
)
from reverie.money import format_amount
from reverie.store import keys, usage
from reverie.store.usage import COUNTS as COUNTS
from reverie.store.usage import DIMENSIONS, Dimension, UsageQuery
from reverie.store.usage import UsageGroup as UsageGroup
from reverie.times import day_of, first_of_month, format_day, parse_day, parse_first_day


class UsageReport(Struct, frozen=True):
    """What was used, in groups."""

    query: UsageQuery
    groups: list[UsageGroup]
    total: UsageGroup
    """Each request once. By tag it isn't the sum of the groups: a key may have several tags."""
    names: dict[str, str]
    """Key's id → its name, for keys of the store."""

    @property
    def first(self) -> str:
        """The first day, as it is written."""
        return format_day(self.query.since)

    @property
    def last(self) -> str:
        """The last day, as it is written."""
        return format_day(self.query.until)

    def labels(self, group: UsageGroup) -> list[str]:
        """What to call a group: a key by its name, with its id where other keys share the name;
        what has no tag by a dash."""
        values = zip(self.query.by, group.group, strict=True)
        return [self._label(dimension, value) for dimension, value in values]

    def _label(self, dimension: Dimension, value: str | int | None) -> str:
        if value is None:
            return "-"
        if isinstance(value, int):
            return format_day(value)
        name = self.names.get(value) if dimension == "key" else None
        if name is None:
            return value
        unique = list(self.names.values()).count(name) == 1
        return name if unique else f"{name} ({value})"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON: money in nano-units, and as it is written."""
        return {
            "by": list(self.query.by),
            "since": self.first,
            "until": self.last,
            "rows": self.rows(),
            "total": sums(self.total),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The groups as JSON."""
        return [{**self._dimensions(group), **sums(group)} for group in self.groups]

    def _dimensions(self, group: UsageGroup) -> dict[str, Any]:
        dimensions: dict[str, Any] = {}
        for dimension, value in zip(self.query.by, group.group, strict=True):
            dimensions[dimension] = format_day(value) if isinstance(value, int) else value
            if dimension == "key":
                dimensions["name"] = self.names.get(str(value))
        return dimensions


def format_costs(group: UsageGroup) -> str:
    """What a group cost, in each currency: ``0.18 USD + 2.00 EUR``."""
    written = [format_amount(nano, currency) for currency, nano in sorted(group.costs.items())]
    return " + ".join(written) or "0.00"


def sums(group: UsageGroup) -> dict[str, Any]:
    """The counts and costs of a group as JSON."""
    return {
        **{name: getattr(group, name) for name in COUNTS},
        "costs": [
            {"currency": currency, "nano": nano, "formatted": format_amount(nano, currency)}
            for currency, nano in sorted(group.costs.items())
        ],
    }


def parse_query(
    by: Iterable[str],
    since: str | None,
    until: str | None,
    key: str | None,
    model: str | None,
    tag: str | None,
    now: int,
    dimensions: Sequence[Dimension] = DIMENSIONS,
) -> UsageQuery:
    """Read what an operator wrote. The default is the current month, by the first dimension.

    Args:
        by: dimensions; each item may be a list with commas.
        now: milliseconds since 1970.
        dimensions: those that may be asked for.

    Raises:
        InvalidInput: its field is the argument that is wrong.
    """
    today = day_of(now)
    last = today
    if until is not None:
        try:
            last = parse_day(until.strip())
        except ValueError as error:
            raise InvalidInput("until", str(error)) from None
    first = first_of_month(last)
    if since is not None:
        try:
            first = parse_first_day(since, today)
        except ValueError as error:
            raise InvalidInput("since", str(error)) from None
    if first > last:
        raise InvalidInput("since", f"{format_day(first)} is after {format_day(last)}")
    return UsageQuery(
        by=_dimensions_of(by, dimensions),
        since=first,
        until=last,
        key=None if key is None else checked_name(key, "key"),
        model=None if model is None else checked_name(model, "model"),
        tag=None if tag is None else checked_tag(tag, "tag"),
    )


def _dimensions_of(by: Iterable[str], allowed: Sequence[Dimension]) -> tuple[Dimension, ...]:
    names = [name.strip() for part in by for name in part.split(",")]
    if any(name not in allowed for name in names):
        raise InvalidInput("by", f"write one or more of {','.join(allowed)}")
    return cast("tuple[Dimension, ...]", tuple(dict.fromkeys(names)) or (allowed[0],))


def make(connection: Connection, query: UsageQuery) -> UsageReport:
    """Make the report that answers a query.

    Raises:
        KeyNotFound: the query's key is neither in the store nor did it ever use anything.
    """
    groups = usage.groups(connection, query)
    if groups is None:
        raise KeyNotFound("key", f"there is no key {query.key}")
    names = _names(connection, query, groups)
    groups.sort(  # what has no tag comes last
        key=lambda one: [(value is None, names.get(str(value), value)) for value in one.group]
    )
    once = groups
    if "tag" in query.by:
        once = usage.groups(connection, structs.replace(query, by=())) or []
    return UsageReport(query, groups, usage.total(once), names)


def _names(
    connection: Connection, query: UsageQuery, groups: Sequence[UsageGroup]
) -> dict[str, str]:
    if "key" not in query.by:
        return {}
    position = query.by.index("key")
    ids = {str(one.group[position]) for one in groups}
    return {id: key.name for id, key in keys.by_ids(connection, ids).items()}
