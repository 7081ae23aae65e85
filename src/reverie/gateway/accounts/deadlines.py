"""Finds operations that take the store too long, each at its deadline, with one timer for all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from reverie.store.database.writer import Operation

_CLOSE = 0.001
"""Seconds before a deadline at which it counts as reached: timers count milliseconds."""


class Deadlines:
    """Watches operations that all have equally long.

    Args:
        on_late: called at an operation's deadline, if its future isn't done by then. It must
            resolve that future.
    """

    def __init__(self, on_late: Callable[[Operation[Any]], None]) -> None:
        self._on_late = on_late
        self._watched: deque[Operation[Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, operation: Operation[Any]) -> None:
        """Watch an operation, whose deadline is not before that of any that was added earlier."""
        self._forget_done()
        self._watched.append(operation)
        if self._timer is None:
            self._start_timer()

    def stop(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_done(self) -> None:
        """Let go of operations that are done, which are nearly always the oldest."""
        watched = self._watched
        while watched and watched[0].future.done():
            watched.popleft()

    def _start_timer(self) -> None:
        """Wake up at the deadline of the oldest operation, which is mostly done long before."""
        wait = max(0.0, self._watched[0].deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic() + _CLOSE
        self._forget_done()
        while self._watched and self._watched[0].deadline <= now:
            self._on_late(self._watched.popleft())
            self._forget_done()
        if self._watched:
            self._start_timer()
