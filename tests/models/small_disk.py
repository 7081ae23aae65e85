"""A disk of one megabyte, to be filled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$0"'


def on_a_small_disk(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a small disk in place of a folder. The disk ends with it.

    Where the system lets nobody mount one, the test is skipped.
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
