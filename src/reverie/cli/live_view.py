"""What ``reverie top`` shows: lines in the order of their weight, and rows that fit a window.

Knows no server and no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from reverie.cli.cluster_lines import cluster_line, cluster_trouble
from reverie.cli.connection import without_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

HEADS = ("id", "key", "model", "backend", "state", "s", "ttft", "tokens")
NUMBERS = ("s", "ttft", "tokens")
_NARROW = 64
"""Columns of a window; one that has fewer shows less of each request."""
_NARROW_HEADS = ("id", "key", "state", "s", "tokens")
_FIELDS = dict(
    zip(
        HEADS,
        ("id", "key", "model", "backend", "state", "seconds", "time_to_first_token", "tokens"),
        strict=True,
    )
)
_TABLE_HEAD = 2
_MIN_ROWS = 3


def head_line(live: dict[str, Any]) -> str:
    """What matters most."""
    models = live["models"]
    return (
        f"{live['running']} running, {sum(model['waiting'] for model in models)} waiting, "
        f"{sum(model['in_flight'] for model in models)} of "
        f"{sum(model['slots'] for model in models)} slots in use"
    )


def more_lines(live: dict[str, Any], today: dict[str, Any] | None) -> list[str]:
    """What else there is to tell: the more important, the earlier.

    Args:
        today: the sums of this day; None: not known.
    """
    last = _last_minute(live)
    hour = {
        name: sum(minute[name] for minute in live["minutes"])
        for name in ("requests", "failed", "failovers")
    }
    backends = [
        (model["model"], backend) for model in live["models"] for backend in model["backends"]
    ]
    cluster = live.get("cluster")
    lines = [
        *(cluster_trouble(cluster) if cluster else []),
        *(_backend_line(*one) for one in backends if _ails(one[1])),
        *([_today_line(today)] if today is not None else []),
        f"last minute: {last.get('requests', 0)} requests, "
        f"{last.get('completion_tokens', 0) / 60:.1f} tokens/s",
        f"last hour: {hour['requests']} requests, {hour['failed']} failed, "
        f"{hour['failovers']} failovers; first token {_times(live['time_to_first_token'])}; "
        f"whole {_times(live['duration'])}",
        *([cluster_line(cluster)] if cluster else []),
    ]
    if live["errors"]:
        error = live["errors"][-1]
        reason = f" ({error['reason']})" if error["reason"] else ""
        lines.append(f"latest error: {error['at']} {error['error']}{reason}")
    lines += [_backend_line(*one) for one in backends if not _ails(one[1])]
    return [" ".join(without_controls(line).split()) for line in lines]


def _last_minute(live: dict[str, Any]) -> dict[str, Any]:
    """The latest minute that is over; empty if nothing was asked in it and nobody looked on."""
    at = datetime.fromisoformat(live["at"]).replace(second=0, microsecond=0) - timedelta(minutes=1)
    minutes = live["minutes"]
    return next((one for one in minutes if datetime.fromisoformat(one["at"]) == at), {})


def _ails(backend: dict[str, Any]) -> bool:
    return not backend["ready"] or backend["state"] != "closed"


def _backend_line(model: str, backend: dict[str, Any]) -> str:
    state = "ready" if backend["ready"] else "not ready"
    if backend["state"] != "closed":
        state += f", circuit {backend['state']}"
    reason = f": {backend['reason']}" if backend["reason"] else ""
    busy = f"{backend['in_flight']}/{backend['slots']} slots"
    return f"{model} on {backend['name']}: {state}, {busy}{reason}"


def _today_line(sums: dict[str, Any]) -> str:
    costs = " + ".join(cost["formatted"] for cost in sums["costs"]) or "0.00"
    return (
        f"today: {costs} for {sums['requests']} requests, {sums['prompt_tokens']} prompt and "
        f"{sums['completion_tokens']} completion tokens"
    )


def _times(percentiles: dict[str, float | None]) -> str:
    if percentiles["p50"] is None:
        return "-"
    return f"{percentiles['p50']} s (p95 {percentiles['p95']} s)"


def row(request: dict[str, Any], heads: Sequence[str] = HEADS) -> list[str]:
    """A request's cells."""
    cells = [request[_FIELDS[head]] for head in heads]
    return ["" if cell is None else without_controls(str(cell)) for cell in cells]


def screen(
    head: str,
    more: Sequence[str],
    requests: Sequence[dict[str, Any]],
    chosen: int,
    said: str,
    help_lines: Sequence[str],
    *,
    width: int,
    height: int,
) -> RenderableType:
    """All of it, as far as a window holds it: the chosen request is always there.

    Args:
        said: what became of the last key; empty: nothing to tell.
        help_lines: ways to say what the keys do, the longest first.
    """
    from rich.console import Group
    from rich.text import Text

    help_line = next((line for line in help_lines if len(line) <= width), help_lines[-1])
    foot = [Text(said, style="bold")] if said else []
    foot.append(Text(help_line, style="dim"))
    free = height - 1 - len(foot) - _TABLE_HEAD
    rows = max(1, min(len(requests), free, max(_MIN_ROWS, free - len(more))))
    top = [Text(line) for line in (head, *more[: max(0, free - rows)])]
    for line in (*top, *foot):
        line.no_wrap, line.overflow = True, "ellipsis"
    first = max(0, min(chosen - rows // 2, len(requests) - rows))
    shown = requests[first : first + rows]
    return Group(*top, _table(shown, chosen - first, narrow=width < _NARROW), *foot)


def _table(requests: Sequence[dict[str, Any]], chosen: int, *, narrow: bool) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads = _NARROW_HEADS if narrow else HEADS
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), expand=True
    )
    for head in heads:
        justify: Literal["left", "right"] = "right" if head in NUMBERS else "left"
        least = max(len(head), 5)
        table.add_column(head, justify=justify, overflow="ellipsis", no_wrap=True, min_width=least)
    for number, request in enumerate(requests):
        style = "reverse" if number == chosen else ""
        table.add_row(*(Text(cell) for cell in row(request, heads)), style=style)
    return table
