from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.command import errors, reverie, reverie_here

TOKEN = "REVERIE_CLUSTER_TOKEN"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(TOKEN, raising=False)


# Options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["head", "join"])
def test_help_says_how_to_use_it_with_an_example(verb: str) -> None:
    shown = reverie_here("cluster", verb, "--help").stdout
    assert f"Example: reverie cluster {verb}" in shown
    for option in ("--host", "--engines", "--gpus", "--memory", "--ports", "--engine-ports"):
        assert option in shown


def test_the_help_of_all_begins_with_the_first_two_machines() -> None:
    shown = reverie_here("cluster", "--help").stdout
    steps = [f"reverie cluster {verb}" for verb in ("head", "token", "join HOST", "status")]
    assert sorted(steps, key=shown.index) == steps


def test_the_token_is_printed_when_it_is_asked_for_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123\n")
    assert reverie_here("cluster", "token", "--token-file", str(file)).stdout == file.read_text()


def test_a_machine_without_the_token_is_told_where_to_get_it() -> None:
    [problem] = errors(reverie_here("cluster", "token"))
    assert "`reverie cluster token` prints on the head's machine" in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "head.local"])
def test_a_head_needs_an_address_that_others_reach(host: str) -> None:
    [problem] = errors(reverie_here("cluster", "head", "--host", host))
    assert problem.startswith(f"--host: {host}" if host != "127.0.0.1" else "--host: no other")


@pytest.mark.parametrize(
    ("option", "value"), [("--ports", "80-90"), ("--engine-ports", "20000"), ("--ports", "x-y")]
)
def test_ports_that_are_none_are_a_mistake_of_the_options(option: str, value: str) -> None:
    done = reverie_here("cluster", "head", "--host", "127.0.0.2", option, value)
    assert done.returncode == 2
    assert f"'{option}'" in done.stderr


def test_too_few_ports_for_the_engines_are_a_mistake() -> None:
    done = reverie_here(
        *("cluster", "head", "--host", "127.0.0.2", "--engines", "20"),
        *("--engine-ports", "20000-20009"),
    )
    assert "20 engines" in errors(done)[0]


def test_tls_needs_three_files_that_are_there(tmp_path: Path) -> None:
    there = tmp_path / "cert.pem"
    there.touch()
    done = reverie_here(
        *("cluster", "head", "--host", "127.0.0.2", "--tls-cert", str(there)),
        *("--tls-key", str(tmp_path / "key.pem")),
    )
    assert [one.partition(": ")[0] for one in errors(done)] == ["--tls-ca", "--tls-key"]


@pytest.mark.parametrize("arguments", [("head",), ("join", "127.0.0.2")])
def test_a_certificate_for_another_address_is_refused(arguments: tuple[str, ...]) -> None:
    file = str(Path(__file__).parents[1] / "backends" / "client" / "localhost.pem")
    done = reverie_here(
        *("cluster", *arguments, "--host", "127.0.0.2"),
        *("--tls-cert", file, "--tls-key", file, "--tls-ca", file),
    )
    [problem] = errors(done)
    assert f"--tls-cert: The certificate {file} doesn't hold for 127.0.0.2: " in problem


@pytest.mark.parametrize("where", ["", "10.0.0.1:x", "10.0.0.1:99999", "two words"])
def test_what_is_no_head_is_a_mistake(where: str) -> None:
    done = reverie_here("cluster", "join", where)
    assert done.returncode == 2
    assert "10.0.0.1:6379" in done.stderr


def test_without_ray_each_verb_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for verb in (("head",), ("join", "10.0.0.1"), ("status",), ("drain", "a"), ("resume", "a")):
        [problem] = errors(reverie_here("cluster", *verb))
        assert 'pip install "reverie[cluster]"' in problem


# On this machine --------------------------------------------------------------------------

PORTS = 40


@pytest.fixture(scope="module")
def first_port() -> Iterator[int]:
    """The first of 120 ports that nothing uses, below those that the kernel gives away."""
    first = _free_ports()
    yield first
    for port in range(first, first + 120):  # of which Ray's folders are named
        shutil.rmtree(f"/tmp/reverie-ray-{os.geteuid()}-{port}", ignore_errors=True)


def _free_ports() -> int:
    for first in range(22000 + os.getpid() % 50 * 120, 32000, 120):
        with ExitStack() as stack:
            try:
                for port in range(first, first + 120):
                    stack.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
        return first
    pytest.fail("no free ports")


class Command:
    """``reverie cluster …`` as a process, with what it has said so far."""

    def __init__(self, *arguments: str) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reverie", "cluster", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, words: str) -> str:
        """Read until it says these words; gives that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if words in line:
                return line
        pytest.fail(f"it ended and never said {words!r}: {''.join(self.said)}")

    def end(self, number: int) -> int:
        """Send a signal; gives the exit status."""
        self.process.send_signal(number)
        with self.process as process:
            assert process.stdout is not None
            self.said += process.stdout.readlines()
        return self.process.returncode


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def begin(*arguments: str) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    yield begin
    for command in commands:
        if command.process.poll() is None:
            command.end(signal.SIGTERM)


def processes_with(word: str) -> list[str]:
    """The command lines of all processes that name it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in line or word in environ:
            found.append(line)
    return found


@pytest.mark.cluster
@pytest.mark.timeout(90)
def test_two_machines_are_a_cluster_after_two_commands_and_leave_nothing_behind(
    first_port: int, start: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_OF_CLUSTER", mark := tmp_path.name)  # all its processes inherit it
    address = f"127.0.0.2:{first_port}"
    first = (first_port + 1, first_port + PORTS)
    head = start(
        *("head", "--host", "127.0.0.2", "--port", str(first_port)),
        *("--ports", f"{first[0]}-{first[1]}"),
    )
    head.until("Ctrl-C ends it")
    said = "".join(head.said)
    assert f"reverie cluster join {address}" in said
    assert f'address = "{address}"' in said
    token = (tmp_path / "state" / "reverie" / "cluster" / "token").read_text().strip()
    assert token not in said

    def join(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return reverie("cluster", "join", address, "--host", "127.0.0.3", *options, **environ)

    later = f"{first_port + PORTS + 1}-{first_port + 2 * PORTS}"
    others = f"{first_port + 2 * PORTS + 1}-{first_port + 3 * PORTS - 1}"
    state = tmp_path / "of-a-stranger"
    stranger = {TOKEN: "of-another-cluster", "XDG_STATE_HOME": str(state)}
    [problem] = errors(join("--ports", later, **stranger))
    assert "refuses this token" in problem
    assert not [*state.rglob("membership.json")], "it is no part of the cluster"

    open_to_all = tmp_path / "copied"
    open_to_all.write_text(token)
    open_to_all.chmod(0o644)
    wrong = ("127.0.0.2:1", "--host", "127.0.0.4", "--ports", others)
    refused = reverie("cluster", "join", *wrong, "--token-file", str(open_to_all))
    assert f"chmod 600 {open_to_all}" in refused.stderr
    assert "can't be reached" in refused.stderr

    machine = start(*("join", address, "--host", "127.0.0.3", "--engines", "2", "--ports", later))
    assert "Engines that may run here: 2" in machine.until("part of the cluster")
    [problem] = errors(join("--ports", others))
    assert "127.0.0.3 is part of this cluster already" in problem
    reverie("cluster", "join", *wrong)
    drained = reverie("cluster", "drain", "127.0.0.3")  # of the cluster that was joined last
    assert "127.0.0.3 has no engine" in drained.stdout, drained.stderr
    assert drained.stderr == ""
    assert len(processes_with(mark)) > 4
    assert machine.end(signal.SIGTERM) == 0
    assert head.end(signal.SIGINT) == 0
    assert not [line for line in head.said + machine.said if "error" in line or "warning" in line]
    assert processes_with(mark) == [], "they were left behind"
