"""Draws how the values of figures are distributed, in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from reverie.load.figures import Distribution, Report

WIDTH = 860
_SIDE, _HEIGHT, _TITLE, _FOOT = 24, 120, 34, 30
_BINS = 60
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 }
rect { fill: #9aa5b1 } .ours { fill: #2b6cb0 }
line { stroke: #222 }
.mark { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } line { stroke: #ddd } rect { fill: #616e7c } .ours { fill: #63b3ed }
}"""
_DRAWN = {
    "ttft_ms": "Time to first token, ms",
    "itl_ms": "Inter-token latency, ms",
    "request_latency_ms": "Request latency, ms",
}


def drawing(parts: Sequence[str], height: float) -> str:
    """A whole SVG file of these parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def svg(report: Report) -> str:
    """A histogram of each figure that there is, with its median and its p99."""
    parts: list[str] = []
    top = 8.0
    for name, title in _DRAWN.items():
        if name in report.figures:
            parts += _histogram(title, report.figures[name], top)
            top += _TITLE + _HEIGHT + _FOOT
    return drawing(parts, top)


def bins(values: Sequence[float], count: int) -> tuple[float, float, list[int]]:
    """The least and the greatest place, and how many values are in each of the bins between."""
    least, most = values[0], values[-1]
    if most <= least:
        least, most = least - 0.5, least + 0.5
    counts = [0] * count
    for value in values:
        counts[min(count - 1, int((value - least) / (most - least) * count))] += 1
    return least, most, counts


def ticks(least: float, most: float) -> list[float]:
    """Some four to ten round numbers between the two."""
    step = 10 ** math.floor(math.log10((most - least) / 4))
    step *= next((times for times in (5, 2) if step * times <= (most - least) / 4), 1)
    first = math.ceil(least / step)
    return [number * step for number in range(first, math.floor(most / step) + 1)]


def _histogram(title: str, found: Distribution, top: float) -> list[str]:
    least, most, counts = bins(found.values, _BINS)
    room, floor = WIDTH - 2 * _SIDE, top + _TITLE + _HEIGHT
    width, highest = room / _BINS, max(counts)

    def place(value: float) -> float:
        return _SIDE + room * (value - least) / (most - least)

    shown = ", ".join(f"p{percent} {found.percentile(percent):.4g}" for percent in (50, 90, 99))
    parts = [
        f'<text class="title" x="8" y="{top + 16:.1f}">{escape(title)} '
        f"({len(found.values):,} values; {shown}, most {found.values[-1]:.4g})</text>"
    ]
    parts += [
        f'<rect class="ours" x="{_SIDE + number * width:.1f}" width="{width - 1:.1f}" '
        f'y="{floor - _HEIGHT * count / highest:.1f}" height="{_HEIGHT * count / highest:.1f}"/>'
        for number, count in enumerate(counts)
        if count
    ]
    parts += [f'<line x1="{_SIDE}" x2="{WIDTH - _SIDE}" y1="{floor:.1f}" y2="{floor:.1f}"/>']
    for percent in (50, 99):
        x = f"{place(found.percentile(percent)):.1f}"
        parts += [f'<line class="mark" x1="{x}" x2="{x}" y1="{top + 26:.1f}" y2="{floor:.1f}"/>']
    parts += [
        f'<text x="{place(tick):.1f}" y="{floor + 16:.1f}" text-anchor="middle">{tick:.6g}</text>'
        for tick in ticks(least, most)
    ]
    return parts
