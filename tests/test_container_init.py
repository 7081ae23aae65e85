"""A command as process 1 of a namespace, as the first process of a container is."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.integration

_BEGIN = """
import os, signal, subprocess, sys, time
from reverie.container_init import leave_process_one
leave_process_one()
"""
_COUNT = """
got = []
for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(one, lambda number, frame: got.append(number))
print("ready", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.3)  # a second one would come now
print(got, flush=True)
"""
_ORPHAN = """
subprocess.run([sys.executable, "-c", "import os; os.fork()"], check=True)
# A process that nobody has awaited is listed, too.
while len([name for name in os.listdir("/proc") if name.isdigit()]) > 2:
    time.sleep(0.01)
print("nobody is left", flush=True)
"""


def command(code: str) -> list[str]:
    """Runs the code as process 1 of a namespace of its own, where /proc shows no others."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *as_root, "--fork", "--pid", "--mount-proc", "--kill-child"]
    return [*unshare, sys.executable, "-c", _BEGIN + code]


@contextmanager
def as_process_one(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command(code), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_process(process: subprocess.Popen[str]) -> int:
    """Process 1 of the namespace, as it is called out here."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        return int(file.read().split()[0])


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def test_orphans_are_reaped() -> None:
    with as_process_one(_ORPHAN) as process:
        output, _ = process.communicate(timeout=60)
        assert output == "nobody is left\n"
        assert process.returncode == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_command_once(sent: signal.Signals) -> None:
    with as_process_one(_COUNT) as process:
        assert line(process) == "ready"
        os.kill(first_process(process), sent)
        assert line(process) == str([int(sent)])
        assert process.wait(60) == 0


def test_ctrl_c_reaches_the_command_once_though_the_terminal_sends_it_to_all() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *command(_COUNT)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert line(process) == "ready"
            os.write(ours, b"\x03")
            assert line(process) == str([int(signal.SIGINT)])
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)],
)
def test_the_exit_status_is_that_of_the_command(end: str, status: int) -> None:
    with as_process_one(end) as process:
        assert process.wait(60) == status


def test_any_other_process_stays_what_it_is() -> None:
    code = f"import os\nbefore = os.getpid()\n{_BEGIN}\nassert os.getpid() == before"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
