"""SIGHUP in a server's first moments, when it would end a process that can't obey it yet."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Hangup:
    """A handler of SIGHUP that notes it, and tells a closed terminal from a wish to reload."""

    def __init__(self) -> None:
        self.noted = False
        # Under nohup it is to outlive its terminal.
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._ends_with_terminal = not nohup and _has_terminal()

    @property
    def is_the_end(self) -> bool:
        """Whether the terminal is closed that the server is to end with."""
        return self._ends_with_terminal and not _has_terminal()

    def __call__(self, sig: int, frame: FrameType | None) -> None:
        self.noted = True
        if self.is_the_end:
            raise KeyboardInterrupt


def note_hangups() -> Hangup:
    """Let SIGHUP do no more than be noted, from now on."""
    before = signal.getsignal(signal.SIGHUP)
    if isinstance(before, Hangup):
        return before
    hangup = Hangup()
    signal.signal(signal.SIGHUP, hangup)
    return hangup


def _has_terminal() -> bool:
    """Whether the terminal that this process was started from is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
