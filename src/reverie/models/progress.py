"""Progress of a download: a bar on a terminal, plain lines elsewhere. On standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
_MB = 1_000_000


def say(line: str) -> None:
    """Tell whoever waits."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


class Progress:
    """Shows how far one download has come. Use it as a context manager."""

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self._what = what
        self._total = total
        self._done = self._began_with = done
        self._began = self._last_line = time.monotonic()
        self._bar = _Bar(what, total, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        else:
            resumed = f", going on at {self._done / _MB:.1f} MB" if self._done else ""
            size = f" ({self._total / _MB:.1f} MB)" if self._total else ""
            say(f"fetching {self._what}{size}{resumed}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            say(f"fetched {self._what}: {self._done / _MB:.1f} MB, {self._rate():.1f} MB/s")

    def advance(self, size: int) -> None:
        """Count bytes that have arrived."""
        self._done += size
        if self._bar is not None:
            self._bar.advance(size)
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            say(self._line())

    def _line(self) -> str:
        rate = self._rate()
        if not self._total:
            return f"{self._what}: {self._done / _MB:.1f} MB, {rate:.1f} MB/s"
        left = (self._total - self._done) / _MB / rate if rate else 0.0
        share = 100 * self._done / self._total
        return f"{self._what}: {share:.0f} %, {rate:.1f} MB/s, {left:.0f} s left"

    def _rate(self) -> float:
        seconds = max(1e-3, time.monotonic() - self._began)
        return (self._done - self._began_with) / _MB / seconds


class _Bar:
    """rich's bar, imported only where it is shown."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(what, total=total, completed=done)

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)
