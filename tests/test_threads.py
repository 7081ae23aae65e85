"""Blocking work that can be given up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from reverie.threads import run_in_daemon_thread


async def test_it_gives_what_the_work_gives_or_raises() -> None:
    def fail() -> None:
        raise ValueError("why")

    assert await run_in_daemon_thread(lambda: threading.current_thread().daemon)
    with pytest.raises(ValueError, match="why"):
        await run_in_daemon_thread(fail)


async def test_the_end_of_work_that_was_given_up_disturbs_nobody() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait()
        ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_in_daemon_thread(work)
    go_on.set()
    await asyncio.to_thread(ended.wait)
    assert await run_in_daemon_thread(lambda: "next") == "next"


@pytest.mark.integration
def test_work_that_hangs_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from reverie.threads import run_in_daemon_thread
async def main():
    try:
        await asyncio.wait_for(run_in_daemon_thread(threading.Event().wait), 0.01)
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("given up\n", "")
