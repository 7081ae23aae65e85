"""The file that a backup is written to: there as a whole, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reverie.errors import UpkeepError
from reverie.paths import sync_folder

_PART = ".part"
"""The end of a file's name until it is whole."""


@contextmanager
def new_file(path: Path, *, replace: bool) -> Generator[BinaryIO, None, None]:
    """A file to write, for its owner alone. It gets its name at the end of the block, and not if
    that raises.

    What a process that was killed left under the name that it had until then is written over.

    Raises:
        UpkeepError: there is such a file already, or it can't be written.
    """
    if path.exists() and not replace:
        raise UpkeepError(f"{path} is there already; name another file, or give --force")
    if path.exists() and not path.is_file():  # as root, a rename would take /dev/null away
        raise UpkeepError(f"{path} is no file; name one, or - for standard output")
    if not path.parent.is_dir():
        raise UpkeepError(f"there is no folder {path.parent}; make it first, for this user alone")
    part = path.with_name(path.name + _PART)
    try:
        # No link is followed: in a folder of all users, another one may have laid it.
        number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(number, "wb") as file:
            if os.fstat(number).st_uid != os.geteuid():  # who could read all that is written
                raise UpkeepError(f"{part} is another user's; remove it, or name another place")
            _lock(number, part)
            try:
                os.fchmod(number, 0o600)
                os.ftruncate(number, 0)
                yield file
                file.flush()
                os.fsync(number)
                if not replace and path.exists():
                    raise UpkeepError(f"{path} was made meanwhile; name another file")
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise UpkeepError(
            f"{path} can't be written: {error.strerror}; name another place"
        ) from None


def _lock(number: int, part: Path) -> None:
    """Have no two processes write the same file."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = part.exists() and os.path.samestat(os.fstat(number), part.stat())
    except BlockingIOError:
        mine = False
    if not mine:  # another one has it, or has just given it its name
        raise UpkeepError(f"another backup is being written to {part}; wait for it")
