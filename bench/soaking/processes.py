"""A process that is killed and started again, and ends with this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PATIENCE = 60.0
_REVERIE = (
    "import sys; from reverie.runner.guard import die_with_parent; "
    "die_with_parent(int(sys.argv.pop(1))); from reverie.cli import main; main()"
)


def reverie(*arguments: str) -> tuple[str, ...]:
    """The command of ``reverie``, which ends when this process does."""
    return (sys.executable, "-c", _REVERIE, str(os.getpid()), *arguments)


class Process:
    """One program, which may have several lives.

    Args:
        says: words of the line in which it says that it is ready.
        log: where its standard error goes, of all its lives.
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, says: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self._command = command
        self._says = says
        self._env = {**os.environ, **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: it ended, or wasn't ready in time.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
            )
        output = self._process.stdout
        assert output is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._says not in (line := await output.readline()).decode():
                    if not line:
                        raise RuntimeError(f"{self.log.stem} ended at its start: see {self.log}")
        except TimeoutError:
            raise RuntimeError(f"{self.log.stem} isn't ready in time: see {self.log}") from None
        self._reading = asyncio.create_task(output.read())  # or it would block when it is full

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """``kill -9``."""
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait until it has ended; give its exit status."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(_PATIENCE):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            status = await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
        return status
