"""Background work that lives as long as the server, none of which ends in silence.

A failure is one line in the log and one more in ``FAILURES``. What failed is tried again: a step
at its next turn, a loop after a pause. While something fails again and again, ``failing`` names it,
and readiness tells.

What belongs to one request, connection or start isn't started here: whoever waits for it gets its
failure. A test lists those places. So what is started here works for no request (``correlation``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from weakref import WeakSet

from reverie.log import fields

logger = logging.getLogger("reverie.background")

FAILURES: Counter[str] = Counter()
"""Failures of this process's background work so far, by name."""

FIRST_PAUSE = 0.5
"""Seconds until a loop that failed starts again; doubled with each failure in a row."""
LONGEST_PAUSE = 30.0
FAILURES_TO_TELL = 3
"""Failures in a row after which readiness tells."""
HEALTHY_AFTER = 60.0
"""Seconds after which a loop that runs has recovered."""

_watched: WeakSet[Watch] = WeakSet()


class Watch:
    """What is known of one piece of background work.

    Args:
        name: for the log and the metric; no client's words.
        overdue: tells that the work hasn't been done for too long, whatever the reason.
        harmless: requests can be served without it, so that readiness doesn't tell.
    """

    def __init__(
        self, name: str, *, overdue: Callable[[], bool] = lambda: False, harmless: bool = False
    ) -> None:
        self.name = name
        self.failures = 0
        """In a row."""
        self._overdue = overdue
        self._harmless = harmless
        FAILURES[name] += 0  # a counter that appears with its first failure hides it from alerts
        _watched.add(self)

    @property
    def failing(self) -> bool:
        return self._overdue() or (self.failures >= FAILURES_TO_TELL and not self._harmless)

    @contextlib.contextmanager
    def step(self) -> Generator[None, None, None]:
        """Do one step of the work: its failure is told, and doesn't leave the block."""
        try:
            yield
        except Exception as failure:
            self.failed(failure)
        else:
            self.failures = 0

    def failed(self, failure: BaseException, **more: object) -> None:
        """Log and count a failure. The first in a row is logged with its traceback."""
        self.failures += 1
        FAILURES[self.name] += 1
        reason = f"{type(failure).__name__}: {failure}"
        logger.error(
            "background work failed",
            exc_info=failure if self.failures == 1 else None,
            extra=fields(task=self.name, reason=reason, in_a_row=self.failures, **more),
        )

    def end(self) -> None:
        """Watch it no more."""
        _watched.discard(self)


class Loop:
    """A loop that is kept alive until it is stopped, or returns.

    Args:
        run: runs until it is cancelled.
        harmless: as in ``Watch``.
    """

    def __init__(
        self, name: str, run: Callable[[], Awaitable[None]], *, harmless: bool = False
    ) -> None:
        self._watch = Watch(name, harmless=harmless)
        self._run = run
        self._task = asyncio.create_task(self._keep(), name=name, context=Context())

    async def stop(self) -> None:
        """Cancel it, and wait until it has ended. Idempotent."""
        self._watch.end()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            recovery = asyncio.get_running_loop().call_later(HEALTHY_AFTER, self._recovered)
            try:
                await self._run()
                self._watch.end()
                return
            except Exception as failure:
                if time.monotonic() - began >= HEALTHY_AFTER:
                    pause = FIRST_PAUSE
                self._watch.failed(failure, again_in_s=pause)
            finally:
                recovery.cancel()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _recovered(self) -> None:
        self._watch.failures = 0


def once(name: str, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
    """Do something in the background, once.

    Whoever holds the task may cancel it, and who waits for it gets its failure, which is told in
    any case.
    """

    async def run() -> None:
        watch = Watch(name)
        try:
            await work()
        except Exception as failure:
            watch.failed(failure)
            raise
        finally:
            watch.end()

    task = asyncio.create_task(run(), name=name, context=Context())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it was told
    return task


def failing() -> list[str]:
    """The names of what fails again and again."""
    return sorted({watch.name for watch in _watched if watch.failing})
