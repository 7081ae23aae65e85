"""How late the load's own event loop comes: where it does, figures tell of this machine."""

from __future__ import annotations

import asyncio
from array import array
from time import perf_counter

_EVERY = 0.01


class LoopLag:
    """Looks each 10 ms how late it is called."""

    def __init__(self) -> None:
        self.delays: array[float] = array("d")
        """Seconds."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._due = perf_counter() + _EVERY
        self._timer = self._loop.call_later(_EVERY, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.delays.append(max(0.0, perf_counter() - self._due))
        self.start()
