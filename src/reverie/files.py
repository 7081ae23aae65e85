"""Reads the files that the operator writes: whole, and bounded in size."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MAX_BYTES = 1024 * 1024


def read_whole(file: Path, *, is_reload: bool = False) -> bytes:
    """Read a file of at most ``MAX_BYTES``.

    The first time it may be a pipe, as in ``--config <(…)``, and is read to its end however long
    that takes.

    Args:
        is_reload: the file has been read before. It must be a regular file then: a pipe can be
            read only once, and one that nobody writes to would never end.

    Raises:
        OSError: it can't be read; ``strerror`` says why.
    """
    try:
        if is_reload and not stat.S_ISREG(file.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file, and a reload reads no other")
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except ValueError:
        raise OSError(errno.EINVAL, "no file has such a name") from None
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB")
    return data
