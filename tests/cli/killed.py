"""Commands that are killed while they work on many rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

_SCRIPT = """
import contextlib, importlib, sys, time

last = int(sys.argv.pop(1))

@contextlib.contextmanager
def row_progress(what, total=None):
    calls = 0
    def progress(rows):
        nonlocal calls
        calls += 1
        if calls == last:
            print("in the midst", flush=True)
            time.sleep(3600)
    yield progress

for name in ("backup", "prune", "restore"):
    importlib.import_module(f"reverie.cli.{name}").row_progress = row_progress
from reverie.cli import main
main()
"""


def kill_in_the_midst(*arguments: str, batches: int, **environ: str) -> None:
    """Run ``reverie``, and ``kill -9`` it once it has done so many batches of rows."""
    command = [sys.executable, "-c", _SCRIPT, str(batches), *arguments]
    with subprocess.Popen(
        command, env=os.environ | environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the midst\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
