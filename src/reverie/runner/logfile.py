"""The engine's own output, kept on disk and bounded in size.

Several servers of one user may run models of the same name. Each keeps a lock file beside its log,
so that none rotates or truncates the log of another one's engine.
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

from reverie.paths import make_folder, state_directory

MAX_BYTES = 10 * 1024 * 1024
"""A larger log is truncated; what it held moves to ``NAME.log.1``."""


def log_directory() -> Path:
    """``$XDG_STATE_HOME/reverie/logs``, which is in ``~/.local/state`` by default."""
    return state_directory() / "logs"


class LogFile:
    """The log of one model's engine, across restarts. ``NAME.log.1`` is the previous log."""

    def __init__(self, name: str) -> None:
        self._name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
        self.path = log_directory() / f"{self._name}.log"
        self._lock: int | None = None
        self._start = 0

    @property
    def _previous(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def rotate(self) -> None:
        """Lock a log, and keep what it holds as the previous log.

        If another server holds ``NAME.log``, this takes the first free one of ``NAME-2.log``, …,
        and holds it until ``release``.
        """
        make_folder(self.path.parent)
        if self._lock is None:
            self._take()
        if self.path.exists():
            os.replace(self.path, self._previous)

    def release(self) -> None:
        """Unlock the log. Idempotent."""
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
        """Open the log for a child that starts now. ``tail`` reads from here on."""
        self.trim()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._start = os.fstat(descriptor).st_size
        return os.fdopen(descriptor, "ab", buffering=0)

    def trim(self) -> None:
        """Truncate a log larger than ``MAX_BYTES``. The child appends, so it carries on there.

        If the disk is too full to keep the old content, it is lost: the engine isn't disturbed.
        """
        if not self.path.exists() or self.path.stat().st_size <= MAX_BYTES:
            return
        with contextlib.suppress(OSError):
            shutil.copy(self.path, self._previous)  # and its mode
        os.truncate(self.path, 0)
        self._start = 0

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of the child that was started last."""
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(self._start, file.tell() - lines * 1024))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []


def _lock(file: Path) -> int | None:
    """Lock a file until the process ends; None: another process holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # serve all the same where the file system has no locks
        pass
    return descriptor
