"""``reverie top``: what a server does now, in the terminal, until one leaves."""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias
from urllib.parse import quote

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
from reverie.cli.live_view import HEADS, NUMBERS, head_line, more_lines, row, screen
from reverie.cli.tables import print_rows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_INTERVAL = 1.0
"""Seconds between two looks."""
_SPEND_INTERVAL = 30.0
_HELP = (
    "q quit   s sort by age or tokens   j/k or arrows choose   c cancel the chosen request",
    "q quit  s sort  j/k choose  c cancel",
)
_END = "\x04"
_KEY = re.compile(r"\x1b\[[A-Z]|.", re.DOTALL)

Order: TypeAlias = Literal["age", "tokens"]
Once = Annotated[bool, typer.Option("--once", help="Look once, and print plain lines.")]


def top(once: Once = False, as_json: AsJson = False, url: Url = None) -> None:
    """Watch a server: what runs and waits, its backends, rates, errors, and what today has cost.

    The admin key is read from REVERIE_ADMIN_KEY. Keys: q quits, s sorts by age or by tokens, j and
    k (or the arrows) choose a request, c cancels it.

    Example: reverie top --once
    """
    key = key_from(ADMIN_KEY_VARIABLE)
    if key is None:
        raise CallFailed(f"Set {ADMIN_KEY_VARIABLE} to the server's admin key.")
    connection = Connection(url or DEFAULT_URL, key)
    look = _Look(connection)
    seen = look.again()
    if as_json:
        print_json({**seen.live, "today": seen.today})
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_once(seen)
    else:
        _Watch(look, seen).run(partial(_cancel, connection))


def _cancel(connection: Connection, id: str) -> str:
    try:
        connection.post_json(f"/admin/v1/requests/{quote(id, safe='')}/cancel")
    except CallFailed as failure:
        return str(failure)
    return f"cancelled {without_controls(id)}"


def _print_once(seen: _Seen) -> None:
    for line in (head_line(seen.live), *more_lines(seen.live, seen.today)):
        typer.echo(line)
    typer.echo()
    print_rows(HEADS, [row(request) for request in seen.live["requests"]], right=NUMBERS)


class _Seen(NamedTuple):
    """What a server told."""

    live: dict[str, Any]
    today: dict[str, Any] | None
    """The sums of this day (UTC); None where no accounts are kept."""


class _Look:
    """Looks at a server. What was spent is asked for less often: the store has to sum it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._today: dict[str, Any] | None = None
        self._asked_at = -math.inf

    def again(self) -> _Seen:
        """Raises:
        CallFailed: the server doesn't tell, or not what Reverie tells.
        """
        live = self._connection.get_json("/admin/v1/live")
        try:
            if time.monotonic() - self._asked_at >= _SPEND_INTERVAL:
                self._asked_at = time.monotonic()
                self._today = self._spent()
            for request in live["requests"]:
                row(request)
            head_line(live)
            more_lines(live, self._today)
        except (LookupError, TypeError, AttributeError):
            raise self._connection.unknown() from None
        return _Seen(live, self._today)

    def _spent(self) -> dict[str, Any] | None:
        try:
            total: dict[str, Any] = self._connection.get_json("/admin/v1/usage?since=1d")["total"]
        except CallFailed:  # no store, or it is slow: the rest is worth to be seen
            return None
        return total


class _Watch:
    """The screen, and what was chosen on it."""

    def __init__(self, look: _Look, seen: _Seen) -> None:
        self._look = look
        self._seen = seen
        self._order: Order = "age"
        self._chosen = 0
        self._said = ""
        self._away = ""

    def run(self, cancel: Callable[[str], str]) -> None:
        """Show it until ``q`` or Ctrl-C.

        Args:
            cancel: ends the request with this id; gives a sentence on it.
        """
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        with (
            _single_keys(),
            contextlib.suppress(KeyboardInterrupt),
            Live(self._screen(console), console=console, screen=True, auto_refresh=False) as shown,
        ):
            while True:
                for key in _keys_within(_INTERVAL):
                    if key in ("q", _END):
                        return
                    self._obey(key, cancel)
                try:
                    self._seen, self._away = self._look.again(), ""
                except CallFailed as failure:
                    self._away = str(failure)
                shown.update(self._screen(console), refresh=True)

    def _requests(self) -> list[dict[str, Any]]:
        by = "seconds" if self._order == "age" else "tokens"
        found = sorted(self._seen.live["requests"], key=lambda request: request[by], reverse=True)
        self._chosen = max(0, min(self._chosen, len(found) - 1))
        return found

    def _obey(self, key: str, cancel: Callable[[str], str]) -> None:
        self._said = ""
        if key == "s":
            self._order = "tokens" if self._order == "age" else "age"
            self._said = f"sorted by {self._order}"
        elif key in ("j", "\x1b[B"):
            self._chosen += 1
        elif key in ("k", "\x1b[A"):
            self._chosen -= 1
        elif key == "c" and (requests := self._requests()):
            self._said = cancel(requests[self._chosen]["id"])

    def _screen(self, console: Console) -> RenderableType:
        return screen(
            self._away or head_line(self._seen.live),
            more_lines(self._seen.live, self._seen.today),
            self._requests(),
            self._chosen,
            self._said,
            _HELP,
            width=console.width,
            height=console.height,
        )


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
