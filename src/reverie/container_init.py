"""What the first process of a container owes the others: their signals, and their burial.

The kernel gives orphans to process 1, which must await them, or they stay as zombies; and it keeps
signals from process 1 that it doesn't handle. So a command that is started as process 1 goes on in
a child, and process 1 does nothing else.
"""

from __future__ import annotations

import os
import signal

_FROM_THE_TERMINAL = {signal.SIGINT, signal.SIGQUIT}
"""What keys send to all processes of a terminal's foreground: the child has its own already."""


def leave_process_one() -> None:
    """Go on in a child, if this is process 1. Its exit status becomes that of process 1.

    To be called before there are threads.
    """
    if os.getpid() != 1:
        return
    signals = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child != 0:
        os._exit(_keep(child, signals))  # and the kernel kills whatever is left
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep(child: int, signals: set[signal.Signals]) -> int:
    """Hand signals on to the child, and reap, until it has ended. Gives its exit status."""
    while True:
        got = signal.sigwaitinfo(signals)
        sent_by_the_kernel = got.si_code > 0
        if got.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif not (sent_by_the_kernel and got.si_signo in _FROM_THE_TERMINAL):
            os.kill(child, got.si_signo)


def _reap(child: int) -> int | None:
    """Await all that have ended. Gives the child's exit status, as shells do, if it has."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
