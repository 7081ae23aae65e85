"""Terminals, as the reader of a page uses them: one for commands, and one that a server runs in."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE = 120.0
"""Seconds that a command, or the start of a server, may take."""

_PRELUDE = """
set -euo pipefail
if [ -e "$TERMINAL" ]; then . "$TERMINAL"; fi
trap '{ declare -p | grep -v "^declare -[a-z]*[rA]"; printf "cd %q\\n" "$PWD"; } >"$TERMINAL"' EXIT
# Where the source is, `make` finds what it would install: the tests have installed it.
make() { command make --no-print-directory --old-file=.venv/serve.stamp "$@"; }
"""


class Terminal:
    """Bash, where variables and the folder that one command sets are there for the next."""

    def __init__(self, folder: Path, environ: Mapping[str, str], state: Path) -> None:
        self._folder = folder
        self._environ = {**environ, "TERMINAL": str(state)}

    def run(self, script: str, **environ: str) -> str:
        """What it prints, mistakes too. Raises AssertionError: it fails."""
        done = subprocess.run(
            ["bash", "-c", _PRELUDE + script],
            cwd=self._folder,
            env={**self._environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout


class ServerTerminal(Terminal):
    """A terminal whose scripts end in a server. The next one stops it first, as Ctrl-C does."""

    def __init__(self, folder: Path, environ: Mapping[str, str], state: Path) -> None:
        super().__init__(folder, environ, state)
        self._log = state.with_suffix(".log")
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def serve(self, script: str) -> str:
        """The address of the server that the script's last line starts, once it is ready."""
        self.stop()
        *before, last = script.strip().splitlines()
        self.run("\n".join(before) + "\n")
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"{_PRELUDE}\n{last}"],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's own group, which Ctrl-C goes to
            )
        give_up = time.monotonic() + DEADLINE
        while "Stop: Ctrl-C" not in (told := self._log.read_text()):
            assert self._server.poll() is None, f"{shlex.quote(last)} ended: {told}"
            assert time.monotonic() < give_up, f"{shlex.quote(last)} isn't ready: {told}"
            time.sleep(0.05)
        address = re.search(r"http://127\.0\.0\.1:\d+", told)
        assert address is not None, told
        return address.group()

    def stop(self) -> None:
        if self._server is None:
            return
        os.killpg(self._server.pid, signal.SIGINT)
        try:
            self._server.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None
