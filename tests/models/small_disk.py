"""A disk of one megabyte, for tests that fill it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$0"'


def on_a_small_disk(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command for which ``folder`` is a small disk, which is gone when the command ends.

    Where the system doesn't allow mounting it, the test is skipped.
    """
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not _works([*alone, _MOUNT, str(folder)]):
        pytest.skip("this system lets us mount no disk")
    return subprocess.run(
        [*alone, f'{_MOUNT} && exec "$@"', str(folder), *command],
        capture_output=True,
        text=True,
        check=False,
    )


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
