"""An answer's way from its connection to whoever takes its events.

Rule 1: what arrives in the midst of an answer is decoded and handed on by the event loop itself.
The task that runs the answer is woken only where there is something to wait for: the end, a
failure, silence, or a taker who can't take more now. Nothing is read meanwhile.

Rule 2: what time it takes to hand events on is none of the engine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from reverie.backends.base import Enough, Take
from reverie.backends.decoding.reader import AnswerReader
from reverie.backends.transport import Response
from reverie.errors import BackendError
from reverie.events import Event, Prompt
from reverie.pending import Pending, done

OnProgress: TypeAlias = Callable[[Prompt], None]
"""Told what the engine reports while it reads the prompt."""

_USAGE_TIMEOUT = 5.0
"""Seconds from the finish reason to the usage, which comes at once or not at all."""


class Passage:
    """The passage of one answer.

    Args:
        deadline: on the loop's clock, for the first delta.
        timeouts: seconds from a report of the engine's progress to the first delta, and from one
            delta to the next.
    """

    __slots__ = (
        "_clock",
        "_deadline",
        "_deltas",
        "_enough",
        "_first_token",
        "_on_progress",
        "_pending",
        "_reader",
        "_reported",
        "_rest",
        "_stall",
        "_take",
    )

    def __init__(
        self,
        reader: AnswerReader,
        take: Take,
        deadline: float,
        timeouts: tuple[float, float],
        on_progress: OnProgress | None = None,
    ) -> None:
        self._reader = reader
        self._take = take
        self._deadline = deadline
        self._first_token, self._stall = timeouts
        self._clock = asyncio.get_running_loop().time
        self._deltas = 0
        self._on_progress = on_progress
        self._reported: Prompt | None = None
        self._pending: Pending = None
        self._enough = False
        self._rest: list[Event] = []

    async def run(self, response: Response) -> bool:
        """Hand the events of a response on, but for the last batch.

        Returns:
            False if the answer is complete for whoever takes it, without its end.

        Raises:
            BackendError: as ``Response.pass_on`` and ``AnswerReader.feed``.
        """
        reader = self._reader
        while True:
            try:
                await response.pass_on(self._feed, self._deadline)
            except BackendError:
                if not reader.finished:
                    raise
                return True  # after the finish reason, a failure merely ends the body
            pending, self._pending = self._pending, None
            if pending is None:
                break
            await pending()
            self._set_deadline()
        if reader.complete:
            response.leave_rest()
        return not self._enough

    async def finish(self, last: list[Event]) -> None:
        """Hand on the last batch, which ends with these events."""
        try:
            pending = self._take(self._rest + last)
        except Enough:
            return
        await done(pending)

    def _feed(self, data: bytes) -> float | None:
        events = self._reader.feed(data)
        if self._reader.complete:
            self._rest = events
            return None
        if events:
            try:
                self._pending = self._take(events)
            except Enough:
                self._enough = True
                return None
            if self._pending is not None:
                return None
        return self._set_deadline()

    def _set_deadline(self) -> float:
        """Until when more is waited for: a new delta, or a report before the first, sets it."""
        reader = self._reader
        deltas = reader.deltas
        if reader.finished:
            self._deadline = min(self._deadline, self._clock() + _USAGE_TIMEOUT)
        elif deltas > self._deltas:
            self._deltas = deltas
            self._deadline = self._clock() + self._stall
        elif not deltas and reader.prompt is not self._reported:
            self._reported = reader.prompt
            self._deadline = self._clock() + self._first_token
            if self._on_progress is not None and self._reported is not None:
                self._on_progress(self._reported)
        return self._deadline
