"""Runs ``fetching`` in a process of its own, which ends when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

import msgspec

from reverie.errors import ModelError

PROGRAM = (sys.executable, "-P", "-m", "reverie.models.fetching")

_GRACE = 2.0
"""Seconds that a download which is cancelled has to clean up."""


async def download(
    source: str,
    progress: Callable[[int, int | None], None],
    program: Sequence[str] = PROGRAM,
) -> int:
    """Fetch a model, and return the bytes of its file.

    If cancelled, it has ended, with all its processes, before that is raised.

    Args:
        progress: called now and then with the bytes that have come, and those of the whole.
        program: the command that fetches the model which its last argument names.

    Raises:
        ModelError: it can't be fetched; the message says what to do.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            source,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise ModelError(f"The download can't be started: {error.strerror}.") from None
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            told = msgspec.json.decode(line)
            if "error" in told:
                raise ModelError(told["error"])
            if "size" in told:
                size: int = told["size"]
                return size
            progress(told["done"], told["total"] or None)
    finally:
        await _end(process)
    raise ModelError("The download ended before it was complete. Try again.")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process and those that it started: with a chance to clean up, then without."""
    try:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _environment() -> dict[str, str]:
    """What a download needs of the environment: not the gateway's own keys, nor the cluster's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "REVERIE_HOME" or not name.startswith(("REVERIE_", "RAY_"))
    }
