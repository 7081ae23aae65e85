"""One engine's process: spawned, awaited, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from typing import BinaryIO, Self

from reverie.runner.environment import child_environment
from reverie.runner.options import EngineOptions

_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class EngineProcess:
    """A running engine. ``exited`` holds its exit status (negative: the signal that killed it)."""

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self.exited: asyncio.Future[int] = asyncio.ensure_future(process.wait())
        self._process = process  # keeps the pipe to its standard input open

    @classmethod
    async def spawn(cls, options: EngineOptions, output: BinaryIO) -> Self:
        """Start an engine that writes what it has to say to ``output``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "reverie.runner.child", options.to_json()),
            stdin=PIPE,  # ends when this process ends: see guard
            stdout=output,
            stderr=STDOUT,
            env=child_environment(os.environ),
            start_new_session=True,  # Ctrl-C is for the gateway alone, which drains first
        )
        return cls(process)

    async def end(self, *, asking: bool = True) -> None:
        """Ask it to end, then kill it. Returns when it is gone; if cancelled, it is killed.

        Args:
            asking: False for one that hangs, and would not heed it.
        """
        try:
            for number, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
                if number == signal.SIGTERM and not asking:
                    continue
                self._signal(number)
                await asyncio.wait({self.exited}, timeout=grace)
                if self.exited.done():
                    return
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            raise

    def _signal(self, number: signal.Signals) -> None:
        """Signal its whole session, since a ``llama-server`` may be a script around one."""
        if self._process.returncode is None:
            # Gone, but not noticed yet; macOS calls that a lack of permission.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
