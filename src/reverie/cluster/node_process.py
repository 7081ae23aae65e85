"""Keeps the process that runs Ray, passes signals on to it, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from reverie.cluster.node_messages import Event, Failed, PartDied, Started
from reverie.cluster.node_options import NodeOptions

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TO_START = 150.0
"""Seconds. A head that has kept much opens it first; Ray itself gives it 120."""
_TO_END = 20.0
_TO_REAP = 10.0


class NodeProcess:
    """Ray on this machine, from its start to its end.

    Args:
        environment: of Ray's processes.
        log: a file for what Ray says at the start; its own logs are elsewhere.
    """

    def __init__(self, options: NodeOptions, environment: Mapping[str, str], log: Path) -> None:
        self._options = options
        self._environment = dict(environment)
        self._log = log
        self._ending = False
        self._deadline: float | None = None
        """When it must have started; None once it has."""
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, on_event: Callable[[Event], None]) -> int:
        """Run until it ends or is told to, by SIGTERM or SIGINT. Gives the exit status: 0 if it was
        told to. Must be called in the main thread."""
        _adopt_orphans()
        with self._signals(), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "reverie.cluster.node"),
                    msgspec.json.encode(self._options).decode(),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # the terminal's Ctrl-C is for this process, which tells it
            )
            if self._ending:  # the signal came before there was anybody to pass it on to
                self._process.terminate()
            try:
                self._follow(self._process, on_event)
            finally:
                self._end(self._process)
        return 0 if self._ending else 1

    def _follow(self, process: subprocess.Popen[bytes], on_event: Callable[[Event], None]) -> None:
        """Hand on what it tells, until it ends."""
        self._deadline = time.monotonic() + _TO_START
        told = False
        for line in _lines(process, lambda: self._deadline):
            event = msgspec.json.decode(line, type=Event)
            told = isinstance(event, Failed | PartDied)
            if isinstance(event, Started):
                self._deadline = None
            if not self._ending:
                on_event(event)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            on_event(Failed(f"Ray hasn't started within {_TO_START:g} s: see {self._log}"))
        elif not told and not self._ending:
            on_event(Failed(f"the process that runs Ray ended: see {self._log}"))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def pass_on(number: int, frame: FrameType | None) -> None:
            process, again = self._process, self._ending
            self._ending = True
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

        kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {kind: signal.signal(kind, pass_on) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        _end_orphans()


def _lines(
    process: subprocess.Popen[bytes], deadline: Callable[[], float | None]
) -> Iterator[bytes]:
    """The lines that a process writes, until it closes its output or the deadline has passed."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            end = deadline()
            if not selector.select(None if end is None else max(0.0, end - time.monotonic())):
                if end is not None and time.monotonic() >= end:
                    return
                continue
            data = os.read(output, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


def _adopt_orphans() -> None:
    """Become the parent of all processes below whose parents die, so that none is lost."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _end_orphans() -> None:
    """Kill what is left of Ray and its engines: each becomes a child of this process when its
    parent ends."""
    end = time.monotonic() + _TO_REAP
    while (children := _children()) and time.monotonic() < end:
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _children() -> list[int]:
    """The processes whose parent is this one, zombies too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The name in parentheses may hold anything, parentheses too.
                after = (entry / "stat").read_text(errors="replace").rpartition(")")[2]
                if int(after.split()[1]) == os.getpid():
                    found.append(int(entry.name))
    return found
