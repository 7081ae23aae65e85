"""Ends the child when its parent ends, even by ``kill -9``.

On Linux the kernel does it (``PR_SET_PDEATHSIG``, which survives ``exec``). Elsewhere a small
process waits for the end of a pipe that the parent holds open, and then kills the engine.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOOK_EVERY = 0.2
"""Seconds."""


def die_with_parent(parent: int) -> None:
    """End this process with ``parent``, which started it and holds its standard input open."""
    if sys.platform == "linux":
        _ask_the_kernel()
    else:
        watch_standard_input()
    if os.getppid() != parent:  # it died before this took effect
        os._exit(1)


def end_with_parent() -> None:
    """End this process once its parent has ended, from a thread of its own.

    For a process that somebody else's program started, in a thread of which we know nothing: the
    kernel would end it with that thread.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, name="guard", daemon=True).start()


def _ask_the_kernel() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def watch_standard_input() -> None:
    """Fork a process that kills this one when its standard input ends.

    A process and not a thread, since it must work after ``exec``, and while the engine holds the
    interpreter's lock.
    """
    watched = os.getpid()
    if os.fork() != 0:
        return
    try:
        while os.read(0, 4096):
            pass
        # Only while still its child: otherwise the number may be another process's by now.
        if os.getppid() == watched:
            os.kill(watched, signal.SIGKILL)
    finally:
        os._exit(0)
