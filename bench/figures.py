"""What was measured: medians, spread and ratios, as a table, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

REVERIE = "Reverie"
HEAD = ("figure", "of", "median", "least – most", "÷ base", "note")


class Figure(NamedTuple):
    """One thing that was measured of one contestant, a value for each round."""

    scenario: str
    what: str
    unit: str
    of: str
    values: Sequence[float]
    note: str = ""
    base: str = REVERIE
    """The contestant that it is divided by."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def number(value: float) -> str:
    """Three digits, and no more than are there."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


class Figures:
    """All figures of a run."""

    def __init__(self) -> None:
        self.all: list[Figure] = []
        self.missing: dict[str, str] = {}
        """Contestants that weren't measured, and why."""

    def add(
        self, scenario: str, what: str, unit: str, of: str, values: Sequence[float], note: str = "",
        base: str = REVERIE,
    ) -> None:  # fmt: skip
        """Keep a figure, unless there is no value of it."""
        if values:
            self.all.append(Figure(scenario, what, unit, of, values, note, base))

    def ratio(self, figure: Figure) -> float | None:
        """A figure ÷ the same of its base; round by round where both ran in turn.

        None if there is no base, or if it is none itself.
        """
        for other in self.all:
            same = other.scenario == figure.scenario and other.what == figure.what
            if same and other.of == figure.base != figure.of and all(other.values):
                if len(other.values) == len(figure.values):
                    pairs = zip(figure.values, other.values, strict=True)
                    return statistics.median(one / base for one, base in pairs)
                return figure.median / other.median
        return None

    def rows(self) -> list[tuple[str, ...]]:
        """The table: figures of the same thing together, in the order in which they came."""
        rows: list[tuple[str, ...]] = []
        order = {(f.scenario, f.what): n for n, f in reversed(list(enumerate(self.all)))}
        before = ""
        for figure in sorted(self.all, key=lambda f: order[f.scenario, f.what]):
            what = f"{figure.scenario}) {figure.what}, {figure.unit}"
            ratio = self.ratio(figure)
            rows.append(
                (
                    what if what != before else "",
                    figure.of,
                    number(figure.median),
                    f"{number(min(figure.values))} – {number(max(figure.values))}",
                    "" if ratio is None else number(ratio),
                    figure.note,
                )
            )
            before = what
        for name, reason in self.missing.items():
            rows.append(("not measured", name, "", "", "", reason))
        return rows

    def table(self) -> Table:
        """For a terminal."""
        table = Table(*HEAD)
        for row in self.rows():
            if row[0] and table.rows:
                table.add_section()
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page: a table for each scenario, with a column for each contestant."""
        parts = []
        for scenario in dict.fromkeys(figure.scenario for figure in self.all):
            cells: dict[str, dict[str, str]] = {}
            names: dict[str, None] = {}
            for figure in self.all:
                if figure.scenario == scenario:
                    cells.setdefault(f"{figure.what}, {figure.unit}", {})[figure.of] = self._cell(
                        figure
                    )
                    names[figure.of] = None
            lines = [(f"({scenario})", *names), ("---",) * (len(names) + 1)]
            lines += [
                (what, *(row.get(name, "–") for name in names)) for what, row in cells.items()
            ]
            parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
        parts += [f"- not measured: {name}: {reason}\n" for name, reason in self.missing.items()]
        return "\n".join(parts)

    def _cell(self, figure: Figure) -> str:
        """The median, least and most where there are several rounds, and the ratio."""
        text, ratio = number(figure.median), self.ratio(figure)
        if len(figure.values) > 1:
            text += f" ({number(min(figure.values))}–{number(max(figure.values))})"
        return text if ratio is None else f"{text} × {number(ratio)}"

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {**figure._asdict(), "median": figure.median, "ratio": self.ratio(figure)}
            for figure in self.all
        ]
