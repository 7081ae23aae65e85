"""The view of the cluster that gateways wait for: made once for all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from msgspec.structs import replace

from reverie.cluster.messages import View

GAP = 0.05
"""Seconds between two views at least: what changes within is told together."""
NUMBERS_GAP = 2.0
"""The same where only the numbers of requests have changed."""
_ENGINES_A_SECOND = 4_000_000
"""Engines in views that may be told a second, all gateways together: more are told later."""


class Views:
    """The latest view, and those who wait for the next.

    Args:
        clock: the time in seconds.
        incarnation: of the manager.
    """

    def __init__(self, clock: Callable[[], float], incarnation: str) -> None:
        self._clock = clock
        self.latest = View(incarnation, 0, False, [], [])
        self._essence = _essence(self.latest)
        self._told = -NUMBERS_GAP
        self._next = asyncio.Event()

    def offer(self, view: View) -> float | None:
        """Publish a view if it differs from the latest; its version is counted here.

        Returns the seconds after which to offer it again; None if there is no need to.
        """
        essence = _essence(view)
        if essence == self._essence and view.models == self.latest.models:
            return None
        gap = GAP if essence != self._essence else NUMBERS_GAP
        gap = max(gap, gap / GAP * view.gateways * len(view.engines) / _ENGINES_A_SECOND)
        wait = self._told + gap - self._clock()
        if wait > 0:
            return wait
        self._told = self._clock()
        self._essence = essence
        self.latest = replace(view, version=self.latest.version + 1)
        self._next.set()
        self._next = asyncio.Event()
        return None

    async def get(self, incarnation: str, version: int, timeout: float) -> View:
        """The latest view, as soon as it is another than the one named, or time is up."""
        latest = self.latest
        if (incarnation, version) == (latest.incarnation, latest.version):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._next.wait()
        return self.latest


def _essence(view: View) -> View:
    """A view without what changes all the time."""
    models = [replace(one, in_flight=0, waiting=0) for one in view.models]
    return replace(view, version=0, models=models)
