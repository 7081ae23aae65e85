"""The command in a pseudo-terminal, as a user sees it and types at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import leaks

PATIENCE = 60.0
_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[=>]|\x1b\][^\x07]*\x07")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def screen(written: str) -> list[str]:
    """The lines that a terminal which never scrolls shows after this was written to it."""
    lines = [""]
    row = column = position = 0
    while position < len(written):
        if match := _SEQUENCE.match(written, position):
            position = match.end()
            count = int(match[1]) if match[1] and match[1].isdigit() else 1
            if match[2] == "A":
                row = max(0, row - count)
            elif match[2] == "K":
                lines[row] = "" if match[1] == "2" else lines[row][:column]
            elif match[2] == "C":
                column += count
            continue
        char = written[position]
        position += 1
        if char == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif char == "\r":
            column = 0
        elif char == "\b":
            column = max(0, column - 1)
        elif char != "\x07":
            line = lines[row].ljust(column)
            lines[row] = line[:column] + char + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


class Terminal:
    """A command that runs in a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._raw = b""
        self._ours = ours
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str) -> str:
        """Wait until this is written, after what was waited for before; gives what came first."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.written.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, self.written
            assert self._read(), self.written
        before = self.written[self._seen : found]
        self._seen = found + len(text)
        return before

    def end(self) -> int:
        """Wait for the end; give the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, self.written
        return self.process.wait(PATIENCE)

    @property
    def written(self) -> str:
        """All that was written, without its colours."""
        return _COLOUR.sub("", self._raw.decode(errors="replace"))

    @property
    def screen(self) -> list[str]:
        return screen(self.written)

    def _read(self) -> bool:
        """Take what has been written; False at the end."""
        if not select.select([self._ours], [], [], 1)[0]:
            return True
        data = b""
        with contextlib.suppress(OSError):  # of Linux, once nobody has the other end open
            data = os.read(self._ours, 65536)
        self._raw += data
        leaks.note("a terminal", data)
        return bool(data)


@contextmanager
def terminal(
    *arguments: str,
    cwd: Path,
    program: Sequence[str] = ("-m", "reverie"),
    columns: int = 80,
    lines: int = 24,
    **environ: str,
) -> Iterator[Terminal]:
    """Run ``reverie`` in a terminal of 80 columns, whose Ctrl-C is a signal."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REVERIE_") and name not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env={**inherited, "TERM": "xterm", "XDG_STATE_HOME": str(cwd / "state"), **environ},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(its)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
