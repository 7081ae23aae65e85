"""Files that the operator writes: read whole, within bounds of size and time."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

MAX_BYTES = 1024 * 1024
_PIPE_TIMEOUT = 60.0
"""Seconds for all that comes through a pipe. Whoever writes it may have to ask for a password."""
_PIECE = 64 * 1024


def read_whole(file: Path, *, again: bool = False) -> bytes:
    """Read a file of at most ``MAX_BYTES``.

    Args:
        again: the file was read before, as by a reload. It must be a regular file then: what came
            through a pipe (``--config <(…)``) comes once, and a pipe without a writer blocks.

    Raises:
        OSError: it can't be had; ``strerror`` says why.
    """
    try:
        # A pipe without a writer is opened at once this way.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:
        raise OSError(errno.EINVAL, "no file has such a name") from None
    try:
        if again and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file, and a reload reads no other")
        return _read_to_end(descriptor)
    finally:
        os.close(descriptor)


def _read_to_end(descriptor: int) -> bytes:
    deadline = time.monotonic() + _PIPE_TIMEOUT
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    data = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise OSError(errno.ETIMEDOUT, f"its end did not come within {_PIPE_TIMEOUT:g} s")
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            continue
        if not piece:
            return bytes(data)
        data += piece
        if len(data) > MAX_BYTES:
            raise OSError(errno.EFBIG, "it is larger than 1 MiB")
