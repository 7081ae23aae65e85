"""Work in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_daemon(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own, as ``asyncio.to_thread`` does in one of a few.

    One that hangs takes no thread from others, and doesn't keep the process from exiting.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(give: Callable[[Any], None], what: object) -> None:
        if not done.done():
            give(what)

    def run() -> None:
        give: Callable[[Any], None] = done.set_result
        what: object
        try:
            what = work()
        except Exception as error:
            give, what = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, give, what)

    threading.Thread(target=run, daemon=True).start()
    return await done
