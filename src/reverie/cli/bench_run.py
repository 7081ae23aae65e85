"""Runs the loads of ``reverie bench``: progress while they last, Ctrl-C, and enough files."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import typer
import uvloop

from reverie.load.client import Client
from reverie.load.run import Load, Plan

_REDRAW_EVERY = 0.5
_TELL_EVERY = 10.0
"""Seconds between two lines of progress, where they aren't shown on a terminal."""


def run_loads(
    url: str, key: str | None, timeout: float, plans: Sequence[Plan], bodies: Iterator[bytes]
) -> Load:
    """Run one after the other, and give the last, or the one that was stopped.

    Args:
        timeout: seconds for one request.
        plans: those before the last warm up.
        bodies: of all requests; each plan goes on where the one before it ended.
    """
    _allow_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(url, key, timeout, plans, bodies))


async def _run(
    url: str, key: str | None, timeout: float, plans: Sequence[Plan], bodies: Iterator[bytes]
) -> Load:
    headers = {"User-Agent": "reverie-bench", **({"Authorization": f"Bearer {key}"} if key else {})}
    client = Client(url, headers=headers, timeout=timeout)
    try:
        for plan in plans:
            load = Load(client, plan, bodies)
            progress = _Progress(load, plan, "" if plan is plans[-1] else "warming up: ")
            with _stopped_by_signals(load), progress:
                await load.run()
            if load.was_stopped:
                break
        return load
    finally:
        client.close()


@contextlib.contextmanager
def _stopped_by_signals(load: Load) -> Iterator[None]:
    """Ctrl-C and SIGTERM end it; what came so far is kept."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Progress:
    """Says on standard error how far a load has come: on a terminal one line that changes."""

    def __init__(self, load: Load, plan: Plan, title: str) -> None:
        self._load, self._title = load, title
        self._of = f" of {plan.requests:,}" if plan.requests else ""
        self._on_terminal = sys.stderr.isatty()
        self._every = _REDRAW_EVERY if self._on_terminal else _TELL_EVERY
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._every, self._tell)

    def __exit__(self, *_exception: object) -> None:
        self._timer.cancel()
        if self._on_terminal:
            typer.echo("\r\x1b[K", nl=False, err=True)

    def _tell(self) -> None:
        load = self._load
        failed = sum(1 for outcome in load.outcomes if outcome.failure is not None)
        line = (
            f"{self._title}{time.monotonic() - self._began:.0f} s: {len(load.outcomes):,}{self._of}"
            f" done, {load.under_way:,} under way, {failed:,} failed"
        )
        if self._on_terminal:
            typer.echo(f"\r\x1b[K{line}", nl=False, err=True)
        else:
            typer.echo(line, err=True)
        self._timer = self._loop.call_later(self._every, self._tell)


def _allow_files() -> None:
    """Open as many connections as the system lets this user."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
