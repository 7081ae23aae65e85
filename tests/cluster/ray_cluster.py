"""A cluster of Ray on this machine, by the commands with which an operator starts one.

Each machine has a loopback address of its own: the head 127.0.0.2, the others 127.0.0.3 and up. No
process of it is a child of this one but the commands, and none of its code runs in this process.

Rule: whatever was started is found by a variable in its environment, or by the command that it
descends from, and ended by its id. ``ray stop`` would end those of others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

TOKEN = "a-token-for-tests"
_MARK = "REVERIE_TEST_CLUSTER"
_FIRST_PORT = 10_000
"""Below those that the kernel gives to whoever asks for any."""
_PORTS_EACH = 60
_MOST_MACHINES = 40
_START_SECONDS = 60.0


class Process(NamedTuple):
    """One process of the cluster."""

    pid: int
    parent: int
    command: str
    """Its command line, or how it calls itself."""


class Machine:
    """One machine, which lives as long as its command."""

    def __init__(self, address: str, command: subprocess.Popen[bytes]) -> None:
        self.address = address
        self.command = command

    @property
    def processes(self) -> list[Process]:
        """All that descend from its command, and the command."""
        return _descendants(self.command.pid)

    @property
    def raylet(self) -> int:
        return next(one.pid for one in self.processes if _is_ray(one, "raylet"))

    @property
    def actors(self) -> list[Process]:
        """The engines' actors on it."""
        return [one for one in self.processes if one.command.startswith("ray::EngineActor")]

    @property
    def engines(self) -> list[Process]:
        """Their engines' processes."""
        actors = {one.pid for one in self.actors}
        return [one for one in self.processes if one.parent in actors]


class RayCluster:
    """A head and machines.

    Args:
        folder: for its state.
        worker: the number of the process that runs these tests, of several at once.
    """

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self.machines: list[Machine] = []
        self.token = TOKEN
        self.folder = folder
        self._mark = f"{os.getpid()}-{id(self)}"
        self._next_ports = _FIRST_PORT + worker * _MOST_MACHINES * _PORTS_EACH
        self._taken: list[int] = []
        self._next_address = 2
        self._head_port = self._take_ports()

    @property
    def head(self) -> Machine:
        return self.machines[0]

    @property
    def address(self) -> str:
        return f"127.0.0.2:{self._head_port}"

    @property
    def environ(self) -> dict[str, str]:
        """What a gateway of this cluster may find in its environment."""
        return {**os.environ, "REVERIE_CLUSTER_TOKEN": self.token, _MARK: self._mark}

    def start(self, machines: int = 1, engines: int = 4) -> None:
        """Start the head, and machines on which so many engines may run each."""
        self.start_head()
        for _ in range(machines):
            self.add_machine(engines)

    def start_head(self, *more: str) -> Machine:
        """Start the head; also once more, after its end."""
        arguments = ("head", "--port", str(self._head_port), *more)
        head = self._run("127.0.0.2", *arguments, ports=self._head_port + 1)
        self.machines[:1] = [head]
        return head

    def add_machine(self, engines: int = 4) -> Machine:
        """Have another machine join. One after the other: Ray doesn't start two at once."""
        self._next_address += 1
        arguments = ("join", self.address, "--engines", str(engines))
        address = f"127.0.0.{self._next_address}"
        machine = self._run(address, *arguments, ports=self._take_ports())
        self.machines.append(machine)
        return machine

    def kill_machine(self, machine: Machine) -> list[Process]:
        """Kill its Ray, and before that those who would tidy up after it.

        Returns its actors and engines, which nobody ended.
        """
        before = machine.processes
        actors = {one.pid for one in before if _is_actor(one)}
        left = [one for one in before if one.pid in actors or one.parent in actors]
        ray = [one for one in before if one not in left]
        for one in sorted(ray, key=lambda one: one.pid):  # the command, its child, Ray's processes
            kill(one.pid)
        machine.command.wait()
        return left

    def find(self, command: str) -> list[Process]:
        """The cluster's processes whose command begins so, as in ``ray::ManagerActor``."""
        return [one for one in self._processes() if one.command.startswith(command)]

    def stop(self) -> list[Process]:
        """End all. Returns what the commands had not ended themselves."""
        for machine in reversed(self.machines):
            machine.command.terminate()
        for machine in reversed(self.machines):
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.command.wait(30)
        left = self._processes()
        for one in left:
            kill(one.pid)
        for machine in self.machines:
            machine.command.wait()
        for first in self._taken:  # other clusters on this machine have folders beside them
            shutil.rmtree(f"/tmp/reverie-ray-{os.geteuid()}-{first}", ignore_errors=True)
        return left

    def _run(self, address: str, *arguments: str, ports: int) -> Machine:
        last = ports + _PORTS_EACH - 2
        middle = last - 20
        log = self.folder / f"{address}.log"
        with log.open("wb") as output:
            command = subprocess.Popen(
                [
                    *(sys.executable, "-m", "reverie", "cluster", arguments[0], "--gpus", "0"),
                    *(*arguments[1:], "--host", address),
                    *("--ports", f"{ports}-{middle}", "--engine-ports", f"{middle + 1}-{last}"),
                ],
                env={**self.environ, "XDG_STATE_HOME": str(self.folder / address)},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + _START_SECONDS
        while b"Ctrl-C ends it" not in log.read_bytes():
            if command.poll() is not None or time.monotonic() > deadline:
                command.kill()
                command.wait()
                raise AssertionError(f"{arguments} did not start: {log.read_text()}")
            time.sleep(0.02)
        return Machine(address, command)

    def _take_ports(self) -> int:
        """The first of a range in which nobody listens."""
        while True:
            first = self._next_ports
            self._next_ports += _PORTS_EACH
            if all(_is_free(port) for port in range(first, first + _PORTS_EACH)):
                self._taken += (first, first + 1)  # a head's range begins after its own port
                return first

    def _processes(self) -> list[Process]:
        wanted = f"{_MARK}={self._mark}".encode()
        found = {}
        for one in all_processes():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0"):
                    found[one.pid] = one
        for machine in self.machines:
            found |= {one.pid: one for one in machine.processes}
        found.pop(os.getpid(), None)
        return list(found.values())


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(processes: list[Process]) -> list[Process]:
    """Those that have not ended."""
    now = {one.pid: one for one in all_processes()}
    return [one for one in processes if one.pid in now]


def until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Wait for it. Returns how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began


def all_processes() -> Iterator[Process]:
    """Those of this machine that have not ended."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state != "Z":
                yield Process(int(entry.name), int(parent), command.strip())


def _descendants(root: int) -> list[Process]:
    processes = {one.pid: one for one in all_processes()}
    return [one for one in processes.values() if root in _line(one.pid, processes)]


def _line(pid: int, processes: dict[int, Process]) -> Iterator[int]:
    """A process, its parent, and so on."""
    while pid in processes:
        yield pid
        pid = processes[pid].parent


def _is_actor(one: Process) -> bool:
    return one.command.startswith(("ray::EngineActor", "ray::ManagerActor"))


def _is_ray(one: Process, program: str) -> bool:
    return one.command.split(" ")[0].endswith(f"/{program}")


def _is_free(port: int) -> bool:
    with socket.socket() as trying:
        try:
            trying.bind(("", port))
        except OSError:
            return False
    return True
