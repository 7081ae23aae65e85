"""What was used, as an operator asks for it and is told it, on the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from msgspec import Struct
from sqlalchemy import Connection

from reverie.gateway.accounts.key_service import NoSuchKey, OperatorError, checked_name
from reverie.money import format_amount
from reverie.store import keys, usage
from reverie.store.usage import DIMENSIONS, FIGURES, Dimension, Question, Use
from reverie.times import DAY_MS, first_of_month, format_day, parse_day, parse_first_day


class Wanted(Struct, frozen=True):
    """What an operator asks about. Days are days since 1970."""

    by: tuple[Dimension, ...]
    since: int
    until: int
    key: str | None
    """A key's name, its id, or what a caller without a stored key is called."""
    model: str | None


class Report(Struct, frozen=True):
    """The answer."""

    wanted: Wanted
    uses: list[Use]
    total: Use
    names: dict[str, str]
    """Key's id → its name, of those that are in the store."""

    @property
    def first(self) -> str:
        return format_day(self.wanted.since)

    @property
    def last(self) -> str:
        return format_day(self.wanted.until)

    def labels(self, use: Use) -> list[str]:
        """What to call a group: a key by its name, and its id too where others have that name."""
        values = zip(self.wanted.by, use.group, strict=True)
        return [self._label(dimension, value) for dimension, value in values]

    def _label(self, dimension: Dimension, value: str | int) -> str:
        if isinstance(value, int):
            return format_day(value)
        name = self.names.get(value) if dimension == "key" else None
        if name is None:
            return value
        alone = list(self.names.values()).count(name) == 1
        return name if alone else f"{name} ({value})"


def read(
    by: Iterable[str],
    since: str | None,
    until: str | None,
    key: str | None,
    model: str | None,
    now: int,
) -> Wanted:
    """Read what an operator wrote; by default it is about the running month, by key.

    Args:
        by: dimensions; each may be a list with commas.
        now: milliseconds since 1970.

    Raises:
        OperatorError: its field is the argument that is wrong.
    """
    last = now // DAY_MS
    if until is not None:
        try:
            last = parse_day(until.strip())
        except ValueError as error:
            raise OperatorError("until", str(error)) from None
    first = first_of_month(last)
    if since is not None:
        try:
            first = parse_first_day(since, now // DAY_MS)
        except ValueError as error:
            raise OperatorError("since", str(error)) from None
    if first > last:
        raise OperatorError("since", f"{format_day(first)} is after {format_day(last)}")
    return Wanted(
        by=_dimensions(by),
        since=first,
        until=last,
        key=None if key is None else checked_name(key, "key"),
        model=None if model is None else checked_name(model, "model"),
    )


def _dimensions(by: Iterable[str]) -> tuple[Dimension, ...]:
    names = [name.strip() for part in by for name in part.split(",")]
    if any(name not in DIMENSIONS for name in names):
        raise OperatorError("by", f"write one or more of {','.join(DIMENSIONS)}")
    return cast("tuple[Dimension, ...]", tuple(dict.fromkeys(names)) or ("key",))


def make(connection: Connection, wanted: Wanted) -> Report:
    """Ask the daily sums.

    Raises:
        NoSuchKey: it is asked about a key that is neither in the store nor ever used anything.
    """
    ids = None
    if wanted.key is not None:
        ids = usage.key_ids(connection, wanted.key)
        if not ids:
            raise NoSuchKey("key", f"there is no key {wanted.key}")
    question = Question(
        by=wanted.by, since=wanted.since, until=wanted.until, key_ids=ids, model=wanted.model
    )
    uses = usage.ask(connection, question)
    names = _names(connection, wanted, uses)
    uses.sort(key=lambda use: [names.get(str(value), value) for value in use.group])
    return Report(wanted, uses, usage.total(uses), names)


def _names(connection: Connection, wanted: Wanted, uses: Sequence[Use]) -> dict[str, str]:
    if "key" not in wanted.by:
        return {}
    position = wanted.by.index("key")
    ids = {str(use.group[position]) for use in uses}
    return {id: key.name for id, key in keys.by_ids(connection, ids).items()}


def told(report: Report) -> dict[str, Any]:
    """A report, fit for JSON: money in nano-units beside its written form."""
    return {
        "by": list(report.wanted.by),
        "since": report.first,
        "until": report.last,
        "rows": [{**_group(report, use), **_figures(use)} for use in report.uses],
        "total": _figures(report.total),
    }


def cost(use: Use) -> str:
    """What it cost, in each currency: ``0.18 USD + 2.00 EUR``."""
    written = [format_amount(nano, currency) for currency, nano in sorted(use.costs.items())]
    return " + ".join(written) or "0.00"


def _group(report: Report, use: Use) -> dict[str, Any]:
    group: dict[str, Any] = {}
    for dimension, value in zip(report.wanted.by, use.group, strict=True):
        group[dimension] = format_day(value) if isinstance(value, int) else value
        if dimension == "key":
            group["name"] = report.names.get(str(value))
    return group


def _figures(use: Use) -> dict[str, Any]:
    return {
        **{name: getattr(use, name) for name in FIGURES},
        "costs": [
            {"currency": currency, "nano": nano, "formatted": format_amount(nano, currency)}
            for currency, nano in sorted(use.costs.items())
        ],
    }
