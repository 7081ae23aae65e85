"""The folder of Ray's sockets and logs on this machine, which one command at a time uses.

It is in the folder for temporary files: Ray needs a short path, since that of a Unix socket may
have 107 bytes at most. The lock also keeps cleaners of temporary files (``tmpfiles.d``) away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import ConfigurationError

_MAX_PARENT = 10
"""Bytes. This module adds up to 31, and Ray 66: a session's name, and the socket's."""
_KEPT = 2
"""Sessions whose logs are kept."""
_KEPT_LOGS = 600
"""Logs of processes that have ended which are kept of the session that runs: some three a process.
Ray keeps all, of an engine that is started again and again, too."""
_LOG_OF = re.compile(r"(?:worker|python-core-\w+)-.*[-_](\d+)\.(?:log|out|err)(?:\.\d+)?")


@contextmanager
def node_folder(first_port: int) -> Iterator[Path]:
    """The folder, while it is held. The same ports have the same one.

    It lies in another that only this user can enter: Ray opens its own to everyone.

    Raises:
        ConfigurationError: it is in use, or isn't this user's alone.
    """
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_PARENT:
        parent = "/tmp"
    private = Path(parent) / f"reverie-ray-{os.geteuid()}-{first_port}"
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(private, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigurationError([f"{private}: can't be used: {error.strerror}"]) from None
    try:
        _require_own(private, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                [
                    f"--ports: a `reverie cluster` command runs here with the ports from "
                    f"{first_port} on: end it, or choose other ports"
                ]
            ) from None
        folder = private / "r"
        folder.mkdir(exist_ok=True)
        _remove_old_sessions(folder)
        yield folder
    finally:
        os.close(descriptor)


def _require_own(folder: Path, descriptor: int) -> None:
    about = os.fstat(descriptor)
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise ConfigurationError([f"{folder}: is not this user's alone: remove it"])


def _remove_old_sessions(folder: Path) -> None:
    sessions = [
        path for path in folder.glob("session_*") if path.is_dir() and not path.is_symlink()
    ]
    sessions.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in sessions[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def remove_old_logs(logs: Path) -> None:
    """Remove the oldest logs of processes that have ended, if there are too many."""
    ended = []
    for path in logs.iterdir():
        name = _LOG_OF.fullmatch(path.name)
        if name is not None and not Path(f"/proc/{name[1]}").exists():
            with contextlib.suppress(FileNotFoundError):
                ended.append((path.stat().st_mtime, path))
    for _, path in sorted(ended, reverse=True)[_KEPT_LOGS:]:
        path.unlink(missing_ok=True)
