"""What a user types into a chat: lines with a history, joined to messages.

The history is a file in the state directory that only its owner can read. A line is added to it
as soon as it is typed. One that begins with a space isn't, as in a shell.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from reverie.paths import make_folder, state_directory

_HISTORY_LINES = 1000
_PROMPT = ">>> "
_MORE = "... "
_QUOTES = '"""'
_REMINDERS = (0.05, 0.3, 2.0)
"""Seconds between a signal and what reminds the wait for a line of it."""


def _readline() -> ModuleType | None:
    """Python's module for editing lines, which not every Python has."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def remind_of_signals() -> None:
    """Let no signal wait for the next key. Called once, in the main thread.

    Python looks for signals in a wait for a line only when one interrupts that wait
    (``Modules/readline.c``). One that comes a moment before it begins is noticed at the next.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.signal(signal.SIGURG, lambda *_: None)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    main = threading.get_ident()

    def remind() -> None:
        while came := ours.recv(1):
            if came[0] == signal.SIGURG:
                continue  # a reminder
            for seconds in _REMINDERS:
                time.sleep(seconds)
                signal.pthread_kill(main, signal.SIGURG)

    threading.Thread(target=remind, name="signals", daemon=True).start()


class Typed(NamedTuple):
    """A message, or a command such as ``/help``: only a line by itself is one."""

    text: str
    is_command: bool


class LineInput:
    """Reads messages from the terminal.

    Args:
        file: the history; default: ``chat_history`` in the state directory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or state_directory() / "chat_history"
        self._readline: Any = _readline()
        if self._readline is not None:
            self._readline.set_auto_history(False)
            for line in self._read_history():
                self._readline.add_history(line)

    def message(self) -> Typed:
        r"""The next message: a line; lines of which all but the last end with ``\``; or what
        stands between two triples of quotation marks.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        line = self._line(_PROMPT)
        if line.lstrip().startswith(_QUOTES):
            return Typed(self._quoted(line.lstrip().removeprefix(_QUOTES)), is_command=False)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._line(_MORE))
        text = "\n".join(lines).strip()
        return Typed(text, is_command=text.startswith("/") and len(lines) == 1)

    def _quoted(self, line: str) -> str:
        lines = []
        while _QUOTES not in line:
            lines.append(line)
            line = self._line(_MORE)
        lines.append(line.partition(_QUOTES)[0])
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        line = input(prompt)
        if line.strip() and not line.startswith(" "):
            self._remember(line)
        return line

    def _remember(self, line: str) -> None:
        if self._readline is not None:
            self._readline.add_history(line)
        with contextlib.suppress(OSError):  # a chat goes on without a history
            make_folder(self._file.parent)
            opened = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(opened, "w", encoding="utf-8", errors="replace") as writing:
                writing.write(line + "\n")

    def _read_history(self) -> list[str]:
        """The last lines; a file that has grown far beyond them is cut."""
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        kept = lines[-_HISTORY_LINES:]
        if len(lines) > 2 * _HISTORY_LINES:
            with contextlib.suppress(OSError):
                self._file.write_text("\n".join(kept) + "\n", encoding="utf-8")
        return kept
