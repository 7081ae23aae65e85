"""A loop that was held up is found out."""

from __future__ import annotations

import asyncio
import time

from reverie.load.lag import LoopLag


async def test_a_loop_that_was_held_up_was_late() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.03)
    before = len(lag.delays)
    time.sleep(0.05)  # noqa: ASYNC251 - that is what it must find
    await asyncio.sleep(0.03)
    lag.stop()
    assert before
    assert max(lag.delays[before:]) > 0.03
