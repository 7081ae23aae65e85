"""``reverie serve`` as a service manager starts it: it holds sockets, and is told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0
_START = """
import os, sys
count = int(sys.argv[1])
for number in range(count):
    os.dup2(int(sys.argv[2 + number]), 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES="http")
if os.environ.get("WATCHDOG_USEC"):
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""
"""Hands sockets over, as systemd does between its fork and its exec."""


class Service:
    """One run of the server."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, told: list[str], arrived: threading.Event
    ) -> None:
        self.process = process
        self.told = told
        """Each message to the manager, in order."""
        self._log = log
        self._arrived = arrived

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until_told(self, line: str, times: int = 1) -> None:
        """Wait until it has told this."""
        deadline = time.monotonic() + PATIENCE
        while sum(line in message.split("\n") for message in list(self.told)) < times:
            assert time.monotonic() < deadline, (self.told, self.log)
            assert self.process.poll() is None, self.log
            self._arrived.wait(0.2)
            self._arrived.clear()

    def end(self) -> int:
        """End it in order; give its status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def service(
    folder: Path,
    sockets: Sequence[socket.socket],
    *options: str,
    environ: Mapping[str, str] | None = None,
    abstract: bool = False,
    within: Sequence[str] = (),
) -> Iterator[Service]:
    """Start it with these sockets.

    Args:
        abstract: it tells the manager over an abstract socket.
        within: a program, with arguments, that becomes the server.
    """
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = f"reverie-test-{os.getpid()}-{time.monotonic_ns()}"
    address = "\0" + name if abstract else str(folder / f"{name[-12:]}.notify")
    manager.bind(address)
    told: list[str] = []
    arrived = threading.Event()

    def listen() -> None:
        while message := manager.recv(4096):
            if message == b"over":
                return
            told.append(message.decode())
            arrived.set()

    listening = threading.Thread(target=listen)
    listening.start()
    command = [*within, sys.executable, "-m", "reverie", "serve", *options]
    log = folder / f"{name[-12:]}.log"
    # Copies with high numbers, lest one covers another as they move to 3 and above.
    copies = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 100) for one in sockets]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(len(copies)), *map(str, copies), *command],
            cwd=folder,
            env={
                **os.environ,
                "REVERIE_API_KEYS": "",
                "REVERIE_SERVER_LOG_FORMAT": "json",
                "XDG_STATE_HOME": str(folder / "state"),
                "NOTIFY_SOCKET": address.replace("\0", "@"),
                **(environ or {}),
            },
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            pass_fds=copies,
        )
    try:
        yield Service(process, log, told, arrived)
    finally:
        process.kill()
        process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.sendto(b"over", address)
        listening.join()
        manager.close()
        for copy in copies:
            os.close(copy)


def write(folder: Path, url: str, more: str = "") -> None:
    """Write a configuration of one model at this backend."""
    (folder / "reverie.toml").write_text(
        f'{more}\n[[models]]\nname = "m"\n[[models.backends]]\nurl = "{url}"\n'
    )


def lines(log: str, message: str) -> list[dict[str, object]]:
    """What was logged under this message."""
    found = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in found if line["message"] == message]
