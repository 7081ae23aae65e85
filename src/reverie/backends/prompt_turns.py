"""Whose prompt an engine reads, so that no long one holds up all others.

llama.cpp fills each batch with prompts in the order of its slots, so that a prompt of thousands of
tokens keeps others waiting until the whole of it is read. Here a long prompt that is being read
gives way: its request is broken off, and sent again when the others have been read. The engine
finds what it had read of it in its cache.

Rule 1: short prompts are read at once, side by side, and make a long one give way. Of long ones,
one is read at a time: the shortest that waits, unless one has waited for ``MAX_OVERTAKEN`` seconds.

Rule 2: nobody waits for ever. A long prompt is read for ``QUANTUM`` seconds before it gives way,
and for longer each time, so that it ends even where the cache can't keep what was read. Short ones
have ``WINDOW`` seconds before the next long one is read, and those that come later wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from reverie.backends.base import Take
from reverie.events import Event
from reverie.pending import Pending

SHORT = 256
"""Tokens, by estimate. A longer prompt gives way."""
QUANTUM = 1.0
"""Seconds of reading before a long prompt gives way for the first time."""
GROWTH = 1.25
"""By how much each further time is longer."""
WINDOW = 2.0
"""Seconds for which short prompts may be read while a long one waits and none is read."""
MAX_OVERTAKEN = 10.0
"""Seconds for which shorter ones may be read before a long prompt."""
_SLACK = 0.001
"""Seconds by which the alarm is late, so that its moment has surely passed."""


class PromptTurns:
    """The prompts of one engine, from before they are sent until their first token has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[Turn] = []  # by arrival
        self._short = 0  # how many short ones are read
        self._long: Turn | None = None  # the one that is read
        self._window_ends = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def enter(self, tokens: int) -> Turn:
        """A turn for a prompt of which about so many tokens are to be read."""
        return Turn(self, tokens, self._clock())

    def wait(self, turn: Turn) -> None:
        if turn.is_long and self._long is None and not any(one.is_long for one in self._waiting):
            self._window_ends = self._clock() + WINDOW
        self._waiting.append(turn)
        self.schedule()

    def leave(self, turn: Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.is_long:
            self._long = None
            self._window_ends = self._clock() + WINDOW
        else:
            self._short -= 1
        self.schedule()

    def schedule(self) -> None:
        """Let all begin whose turn it is, and a long one give way where it should."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._waiting:
            return
        now = self._clock()
        short = [turn for turn in self._waiting if not turn.is_long]
        long = [turn for turn in self._waiting if turn.is_long]
        if self._long is not None:
            if short:
                self._ask_to_give_way(self._long, now)
            return
        if not long or now < self._window_ends:
            for turn in short:
                self._waiting.remove(turn)
                self._short += 1
                turn.begin(now)
        if long and not self._short:
            overtaken = [turn for turn in long if now - turn.came_at >= MAX_OVERTAKEN]
            self._long = overtaken[0] if overtaken else min(long, key=lambda turn: turn.tokens)
            self._waiting.remove(self._long)
            self._long.begin(now)
            self.schedule()

    def _ask_to_give_way(self, reader: Turn, now: float) -> None:
        wait = reader.may_give_way_at - now
        if wait > 0 or not reader.give_way():
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.0, wait) + _SLACK, self.schedule)


class Turn:
    """One prompt's turn."""

    def __init__(self, turns: PromptTurns, tokens: int, came_at: float) -> None:
        self.tokens = tokens
        self.is_long = tokens > SHORT
        self.came_at = came_at
        self.may_give_way_at = 0.0
        self.gave_way = False
        """True once it has been broken off, and sent again."""
        self._turns = turns
        self._quantum = QUANTUM
        self._began = asyncio.Event()
        self._is_on = False
        self._reading: asyncio.Timeout | None = None

    def begin(self, now: float) -> None:
        self.may_give_way_at = now + self._quantum
        self._quantum *= GROWTH
        self._began.set()

    def give_way(self) -> bool:
        """Break the reading off. False: it has yet to begin."""
        if self._reading is None:
            return False
        if not self._reading.expired():  # or it is being broken off already
            self._reading.reschedule(asyncio.get_running_loop().time())
        return True

    async def generate(
        self,
        generate: Callable[[Take], Awaitable[None]],
        take: Take,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        """Generate in turn. The turn ends with the first batch; the answer goes on.

        Args:
            on_read: called once the prompt has been read.
        """

        def take_first(batch: list[Event]) -> Pending:
            if self._is_on:
                reading = self._reading
                if reading is not None:
                    if reading.expired():
                        return None  # it gives way, and will be sent again
                    reading.reschedule(None)
                self._end()
                on_read()
            return take(batch)

        while True:
            self._began.clear()
            self._is_on = True
            self._turns.wait(self)
            try:
                await self._began.wait()
                if not self.is_long:
                    return await generate(take_first)
                async with asyncio.timeout(None) as self._reading:
                    return await generate(take_first)
            except TimeoutError:
                if self._reading is None or not self._reading.expired():
                    raise
                self.gave_way = True
            finally:
                self._end()

    def _end(self) -> None:
        """End the turn, if it hasn't ended."""
        self._reading = None
        if self._is_on:
            self._is_on = False
            self._turns.leave(self)
