"""Tests in virtual time: hours pass in no time, in the same order each time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from virtual_time import run

P = ParamSpec("P")


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return in_virtual_time


async def until(
    condition: Callable[[], object], seconds: float = 120.0, step: float = 0.05
) -> None:
    """Wait for something to come true, and no longer than ``seconds`` of the loop's time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(step)


async def given_up(work: Awaitable[object], seconds: float) -> bool:
    """Whether it takes longer than ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return True
    return False
