"""The engine's own output, kept on disk and bounded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 10 * 1024 * 1024
"""A log that has grown beyond this is cut; what was there moves to ``NAME.log.1``."""


def log_directory() -> Path:
    """``$XDG_STATE_HOME/reverie/logs``, which is in ``~/.local/state`` by default."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "reverie" / "logs"


class LogFile:
    """The log of one model's engine, over its restarts. ``NAME.log.1`` is the one before."""

    def __init__(self, name: str) -> None:
        self.path = log_directory() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.log"
        self._previous = self.path.with_name(self.path.name + ".1")
        self._start = 0

    def rotate(self) -> None:
        """Keep what is there as the previous log."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            os.replace(self.path, self._previous)

    def open(self) -> BinaryIO:
        """Open for a child that starts now; ``tail`` reads from here on."""
        self.trim()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._start = os.fstat(descriptor).st_size
        return os.fdopen(descriptor, "ab", buffering=0)

    def trim(self) -> None:
        """Cut a log that has grown too long. The child appends, so it goes on at the new end.

        A full disk is no reason to disturb the engine: what can't be kept is cut all the same.
        """
        if not self.path.exists() or self.path.stat().st_size <= MAX_BYTES:
            return
        with contextlib.suppress(OSError):
            shutil.copy(self.path, self._previous)  # with its mode
        os.truncate(self.path, 0)
        self._start = 0

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines that the child wrote which was started last."""
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(self._start, file.tell() - lines * 1024))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []
