"""Draws figures as bars on a logarithmic scale, in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from figures import REVERIE, Figure, number

from reverie.load.plot import WIDTH, drawing

_LABEL, _BAR, _STEP, _TITLE = 190, 15, 20, 34


def svg(groups: Sequence[Sequence[Figure]]) -> str:
    """A group of bars for the figures of each thing that was measured; a line shows the spread."""
    parts: list[str] = []
    top = 8
    for group in groups:
        title = f"{group[0].what}, {group[0].unit} (logarithmic)"
        parts.append(f'<text class="title" x="8" y="{top + 16}">{escape(title)}</text>')
        top += _TITLE - 8
        least = min(min(figure.values) for figure in group) / 2
        most = max(max(figure.values) for figure in group)

        def place(value: float, least: float = least, most: float = most) -> float:
            room = WIDTH - _LABEL - 80
            return _LABEL + room * math.log(value / least) / math.log(most / least)

        for figure in group:
            kind = ' class="ours"' if figure.of.startswith(REVERIE) else ""
            label = f'text-anchor="end">{escape(figure.of)}</text>'
            end, middle = place(figure.median), top + _BAR / 2
            low, high = place(min(figure.values)), place(max(figure.values))
            parts += [
                f'<text x="{_LABEL - 8}" y="{top + 12}" {label}',
                f'<rect{kind} x="{_LABEL}" y="{top}" width="{end - _LABEL:.1f}" height="{_BAR}"/>',
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
                f'<text x="{max(end, high) + 6:.1f}" y="{top + 12}">{number(figure.median)}</text>',
            ]
            top += _STEP
        top += 10
    return drawing(parts, top)


def drawn(figures: Sequence[Figure]) -> list[list[Figure]]:
    """What the plot shows: the CPU time of each contestant, where there are several."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        if figure.scenario in "abc" and figure.unit == "µs" and min(figure.values) > 0:
            groups.setdefault((figure.scenario, figure.what), []).append(figure)
    return [group for group in groups.values() if len(group) > 1]
