"""How far a download has come: shown on standard error, or reported to whoever asked for it.

On standard error it is a bar on a terminal, else plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

if TYPE_CHECKING:  # it is slow to import, so it is imported only where it is shown
    import rich.progress

_LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
_MB = 1_000_000


def say(line: str) -> None:
    """Print a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


class Progress(Protocol):
    """Is told how far one download has come. It is a context manager, around the download."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def update(self, done: int) -> None:
        """Note that ``done`` bytes have arrived so far. Call it often, also while none arrive."""


Show: TypeAlias = Callable[[str, int], Progress]
"""Makes the progress of a download, by what it is of and the bytes of the whole."""


class ReportedProgress:
    """Hands each step on.

    Args:
        report: called with the bytes that have arrived, and those of the whole.
    """

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report = report
        self._total = total

    def __enter__(self) -> Self:
        self.update(0)
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, done: int) -> None:
        self._report(done, self._total)


class ShownProgress:
    """Shows it on standard error.

    Args:
        what: the name to show.
        total: bytes of the whole.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._began = self._last_line = time.monotonic()
        self._bar = _new_bar() if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        else:
            say(f"fetching {self._what} ({self._total / _MB:.1f} MB)")
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

    def update(self, done: int) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            say(self._line())

    def _line(self) -> str:
        rate = self._rate()
        line = f"{self._what}: {100 * self._done / max(1, self._total):.0f} %, {rate:.1f} MB/s"
        if not self._done:
            return line
        return f"{line}, {(self._total - self._done) / _MB / rate:.0f} s left"

    def _rate(self) -> float:
        """Megabytes a second since the beginning."""
        return self._done / _MB / max(1e-3, time.monotonic() - self._began)


def _new_bar() -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
