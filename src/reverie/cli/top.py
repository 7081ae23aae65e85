"""``reverie top``: what a server does now, in the terminal, until one leaves."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from reverie.cli.accounts import AsJson, print_json
from reverie.cli.connection import (
    ADMIN_KEY_VARIABLE,
    DEFAULT_URL,
    CallFailed,
    Connection,
    Url,
    key_from,
    without_controls,
)
from reverie.cli.tables import print_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

_INTERVAL = 1.0
"""Seconds between two looks."""
_HELP = "q quit   s sort by age or tokens   j/k or arrows choose   c cancel the chosen request"
_END = "\x04"
_KEY = re.compile(r"\x1b\[[A-Z]|.", re.DOTALL)
_HEADS = ("id", "key", "model", "backend", "state", "s", "ttft", "tokens")
_RIGHT = ("s", "ttft", "tokens")

Order: TypeAlias = Literal["age", "tokens"]
Once = Annotated[bool, typer.Option("--once", help="Look once, and print plain lines.")]


def top(once: Once = False, as_json: AsJson = False, url: Url = None) -> None:
    """Watch a server: the requests that run, its queue, slots, rates and latest errors.

    The admin key is read from REVERIE_ADMIN_KEY. Keys: q quits, s sorts by age or by tokens, j and
    k (or the arrows) choose a request, c cancels it.

    Example: reverie top --once
    """
    key = key_from(ADMIN_KEY_VARIABLE)
    if key is None:
        raise CallFailed(f"Set {ADMIN_KEY_VARIABLE} to the server's admin key.")
    connection = Connection(url or DEFAULT_URL, key)
    live = connection.get_json("/admin/v1/live")
    if as_json:
        print_json(live)
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_once(live)
    else:
        _Watch(connection, live).run()


def _print_once(live: dict[str, Any]) -> None:
    for line in _summary(live):
        typer.echo(line)
    typer.echo()
    print_rows(_HEADS, [_row(request) for request in live["requests"]], right=_RIGHT)


class _Watch:
    """The screen, and what was chosen on it."""

    def __init__(self, connection: Connection, live: dict[str, Any]) -> None:
        self._connection = connection
        self._live = live
        self._order: Order = "age"
        self._chosen = 0
        self._said = ""

    def run(self) -> None:
        """Show it until ``q`` or Ctrl-C."""
        from rich.live import Live

        with (
            _single_keys(),
            contextlib.suppress(KeyboardInterrupt),
            Live(self._screen(), screen=True, auto_refresh=False) as screen,
        ):
            while True:
                for key in _keys_within(_INTERVAL):
                    if key in ("q", _END):
                        return
                    self._obey(key)
                with contextlib.suppress(CallFailed):
                    self._live = self._connection.get_json("/admin/v1/live")
                screen.update(self._screen(), refresh=True)

    def _requests(self) -> list[dict[str, Any]]:
        by = "seconds" if self._order == "age" else "tokens"
        found = sorted(self._live["requests"], key=lambda request: request[by], reverse=True)
        self._chosen = max(0, min(self._chosen, len(found) - 1))
        return found

    def _obey(self, key: str) -> None:
        self._said = ""
        if key == "s":
            self._order = "tokens" if self._order == "age" else "age"
        elif key in ("j", "\x1b[B"):
            self._chosen += 1
        elif key in ("k", "\x1b[A"):
            self._chosen -= 1
        elif key == "c" and (requests := self._requests()):
            self._cancel(requests[self._chosen]["id"])

    def _cancel(self, id: str) -> None:
        try:
            self._connection.post_json(f"/admin/v1/requests/{id}/cancel")
        except CallFailed as failure:
            self._said = str(failure)
        else:
            self._said = f"cancelled {without_controls(id)}"

    def _screen(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
        for head in _HEADS:
            justify: Literal["left", "right"] = "right" if head in _RIGHT else "left"
            table.add_column(head, justify=justify, overflow="ellipsis", no_wrap=True)
        for number, request in enumerate(self._requests()):
            style = "reverse" if number == self._chosen else ""
            table.add_row(*(Text(cell) for cell in _row(request)), style=style)
        lines = [Text(line) for line in _summary(self._live)]
        return Group(*lines, table, Text(self._said, style="bold"), Text(_HELP, style="dim"))


def _summary(live: dict[str, Any]) -> list[str]:
    """What stands above the requests, a line each."""
    models = live["models"]
    last = live["minutes"][-2:][0] if live["minutes"] else {}
    hour = {
        name: sum(minute[name] for minute in live["minutes"])
        for name in ("requests", "failed", "failovers", "completion_tokens")
    }
    lines = [
        f"{live['running']} running, {sum(model['waiting'] for model in models)} waiting, "
        f"{sum(model['in_flight'] for model in models)} of "
        f"{sum(model['slots'] for model in models)} slots in use",
        f"last minute: {last.get('requests', 0)} requests, "
        f"{last.get('completion_tokens', 0) / 60:.1f} tokens/s",
        f"last hour: {hour['requests']} requests, {hour['failed']} failed, "
        f"{hour['failovers']} failovers; first token {_times(live['time_to_first_token'])}; "
        f"whole {_times(live['duration'])}",
    ]
    if live["errors"]:
        error = live["errors"][-1]
        reason = f" ({error['reason']})" if error["reason"] else ""
        lines.append(without_controls(f"latest error: {error['at']} {error['error']}{reason}"))
    return lines


def _times(percentiles: dict[str, float | None]) -> str:
    if percentiles["p50"] is None:
        return "-"
    return f"{percentiles['p50']} s (p95 {percentiles['p95']} s)"


def _row(request: dict[str, Any]) -> list[str]:
    names = ("id", "key", "model", "backend", "state", "seconds", "time_to_first_token", "tokens")
    cells = [request[name] for name in names]
    return ["" if cell is None else without_controls(str(cell)) for cell in cells]


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Let each key be read as it is typed, and show none; Ctrl-C stays a signal."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _keys_within(seconds: float) -> list[str]:
    """The keys that are typed meanwhile, arrows as their sequences; the end of input as Ctrl-D."""
    if not select.select([sys.stdin], [], [], seconds)[0]:
        return []
    typed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    return _KEY.findall(typed) or [_END]
