"""The engine's own output, kept on disk and bounded.

Several servers of one user may run a model of the same name. Each holds a lock beside its log for
as long as it runs, so that none rotates or cuts what another one's engine writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from itertools import count
from pathlib import Path
from typing import BinaryIO

from reverie.paths import state_directory

MAX_BYTES = 10 * 1024 * 1024
"""A log that has grown beyond this is cut; what was there moves to ``NAME.log.1``."""


def log_directory() -> Path:
    """``$XDG_STATE_HOME/reverie/logs``, which is in ``~/.local/state`` by default."""
    return state_directory() / "logs"


class LogFile:
    """The log of one model's engine, over its restarts. ``NAME.log.1`` is the one before."""

    def __init__(self, name: str) -> None:
        self._name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
        self.path = log_directory() / f"{self._name}.log"
        self._lock: int | None = None
        self._start = 0

    @property
    def _previous(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def rotate(self) -> None:
        """Keep what is there as the previous log.

        A log that another server holds is left alone: the next free one of ``NAME-2.log``, … is
        taken, and held until ``release``.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._take()
        if self.path.exists():
            os.replace(self.path, self._previous)

    def release(self) -> None:
        """Leave the log to the next start. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> None:
        for number in count(1):
            name = self._name if number == 1 else f"{self._name}-{number}"
            self._lock = _lock(self.path.with_name(f"{name}.lock"))
            if self._lock is not None:
                self.path = self.path.with_name(f"{name}.log")
                return

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


def _lock(file: Path) -> int | None:
    """Lock a file, which ends with the process at the latest; None if another one holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks is no reason not to serve
        pass
    return descriptor
