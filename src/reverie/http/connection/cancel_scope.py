"""Ends a request from outside: its client leaves or stops reading, a deadline, a forced shutdown.

The one task that runs the request is cancelled, and the reason is raised there as an ordinary
``ReverieError``.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

from reverie.errors import ReverieError


class CancelScope:
    """Lets anybody end a task that runs inside it, with a reason.

    Inside ``async with CancelScope() as cancel_scope``, a call of ``cancel_scope.end(error)`` from
    anywhere cancels the task. ``error`` is then raised at the end of the block, unless the block
    was complete by then. A cancellation that comes from elsewhere passes through, also where both
    come at once.
    """

    def __init__(self) -> None:
        self._cancelling = 0
        self._task: asyncio.Task[Any] | None = None
        self._error: ReverieError | None = None

    def end(self, error: ReverieError) -> None:
        """End the block. Only the first reason counts; after the block nothing happens."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        if not cancelled:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # the cancellation is still pending: take it here
        if task.uncancel() > self._cancelling:  # somebody else cancels the task, too
            raise asyncio.CancelledError from None
        if cancelled:
            raise self._error from None
