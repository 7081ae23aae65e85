"""The command, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def reverie(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``reverie`` with these arguments, and these variables on top of the usual ones."""
    return subprocess.run(
        [sys.executable, "-m", "reverie", *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command that failed said, a line for each mistake."""
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), done.stderr
    return [line.removeprefix("error: ") for line in lines]
