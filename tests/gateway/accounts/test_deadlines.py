"""Operations that take too long are found at their deadlines, each once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from reverie.gateway.accounts.deadlines import Deadlines
from reverie.store.database.writer import Operation


class Late:
    """Watches operations, and gives up those that are late."""

    def __init__(self) -> None:
        self.found: list[tuple[object, float]] = []
        self.deadlines = Deadlines(self._give_up)

    def _give_up(self, operation: Operation[Any]) -> None:
        self.found.append((operation.subject, time.monotonic() - operation.deadline))
        operation.future.set_result(None)

    def add(self, subject: object, seconds: float) -> Operation[Any]:
        loop = asyncio.get_running_loop()
        operation: Operation[Any] = Operation(lambda *_: [], subject, seconds, loop)
        self.deadlines.add(operation)
        return operation


async def test_each_that_is_late_is_found_at_its_deadline_and_none_that_was_done_in_time() -> None:
    late = Late()
    first, done, last = late.add("first", 0.02), late.add("done", 0.04), late.add("last", 0.06)
    done.future.set_result(None)
    await asyncio.wait_for(asyncio.gather(first.future, last.future), 10)
    assert [subject for subject, _ in late.found] == ["first", "last"]
    assert all(after > -0.01 for _, after in late.found)


async def test_one_that_comes_when_all_others_are_done_is_watched_too() -> None:
    late = Late()
    late.add("done", 0.01).future.set_result(None)
    await asyncio.sleep(0.03)
    await asyncio.wait_for(late.add("late", 0.01).future, 10)
    assert [subject for subject, _ in late.found] == ["late"]


async def test_nothing_is_found_after_the_end() -> None:
    late = Late()
    late.add("late", 0.0)
    late.deadlines.stop()
    await asyncio.sleep(0.01)
    assert late.found == []
