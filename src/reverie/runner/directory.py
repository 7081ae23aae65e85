"""The private directory that holds an engine's socket, its key and its chat template.

Its owner keeps it locked while it is in use. An unlocked one was left behind by a gateway that was
killed, and the next gateway removes it. The lock also keeps cleaners of temporary files
(``tmpfiles.d``) away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

SOCKET_NAME = "engine.sock"
TEMPLATE_NAME = "template.jinja"
KEY_NAME = "api-key"
_PREFIX = "reverie-"
_MAX_PARENT = 70
"""Bytes. The whole path of a Unix socket must stay below 104 (macOS; 108 on Linux)."""
_LOCKED_WITHIN = 60.0
"""Seconds. A directory that is older and still in use has surely been locked."""


class PrivateDirectory:
    """A fresh directory that only this user can enter. ``remove`` is idempotent."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        if len(os.fsencode(parent)) > _MAX_PARENT:
            parent = Path("/tmp")
        _clear_abandoned(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock: int | None = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def remove(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _clear_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.lstat().st_mtime < _LOCKED_WITHIN:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone already, not a directory, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.geteuid() and _holds_only_ours(path):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # in use
            pass
        finally:
            os.close(descriptor)


def _holds_only_ours(path: Path) -> bool:
    """True if the directory holds an engine's files and nothing else.

    An engine that was killed while it loaded has no socket yet.
    """
    names = set(os.listdir(path))
    return bool(names) and names <= {SOCKET_NAME, TEMPLATE_NAME, KEY_NAME}
