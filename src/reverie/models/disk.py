"""Files on the disk: whether there is room for them, and whether they hold the right bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from reverie.errors import ModelError

_RESERVE = 50_000_000
"""Bytes that must stay free on the disk."""
_MB = 1_000_000

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The ``errno`` values of a full disk and of a used-up quota."""


def require_space(folder: Path, size: int, what: str) -> None:
    """Check that ``folder`` has room for ``size`` bytes.

    Raises:
        ModelError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size + _RESERVE:
        raise ModelError(
            f"The disk is too full for {what}: it needs {(size + _RESERVE) / _MB:.0f} MB and "
            f"{free / _MB:.0f} MB are free. Make room, or set REVERIE_HOME to another disk."
        )


def verify(file: Path, sha256: str, what: str) -> None:
    """Check a file's SHA-256, write it through to the disk, and remove it if it is wrong.

    Raises:
        ModelError: the checksum is wrong.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
        os.fsync(opened.fileno())
    if digest.hexdigest() != sha256:
        file.unlink()
        raise wrong_checksum(what)


def wrong_checksum(what: str) -> ModelError:
    return ModelError(
        f"What was fetched as {what} has the wrong checksum, so it was thrown away. Try again; "
        "if it happens twice, a proxy or a mirror changes the file."
    )
