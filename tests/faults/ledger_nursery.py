"""Starts gateways quickly: it has imported everything, and each gateway is a fork of it.

A gateway takes 1.2 s of a core to start, nearly all of it imports. What is forked here is `reverie
serve` from its first line on, in a process of its own, which can be killed like any other.

Input: a JSON object a line, ``{"arguments", "environment", "log", "limits"}``. Output: ``ready``,
then ``started PID`` for each line, and ``ended PID STATUS`` when a gateway has ended. At the end of
its input it kills those that are left.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import threading
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from reverie.cli import main

_IMPORTED_LATE = ("reverie.cli.commands", "reverie.app", "reverie.server", "psycopg")

_children: set[int] = set()


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def reap(_signal: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _children.discard(ended[0])
            say(f"ended {ended[0]} {os.waitstatus_to_exitcode(ended[1])}")


def become_gateway(order: dict[str, Any]) -> NoReturn:
    status = 70
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours, theirs)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for name, most in order["limits"].items():
            resource.setrlimit(getattr(resource, name), (most, most))
        os.environ.update(order["environment"])
        sys.argv = ["reverie", *order["arguments"]]
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    for name in _IMPORTED_LATE:
        import_module(name)
    assert threading.active_count() == 1, "a fork takes no threads with it"
    gc.freeze()
    signal.signal(signal.SIGCHLD, reap)
    say("ready")
    for line in sys.stdin:
        # Blocked, so that an end is never told before its start.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            become_gateway(json.loads(line))
        _children.add(pid)
        say(f"started {pid}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for pid in _children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
