"""A server of one's own: started where none answers, and gone at the end, however that comes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.gateway import KEY, configure
from tests.cli.terminal import terminal
from tests.cli.test_serve import children

pytestmark = pytest.mark.integration


@pytest.fixture
def engine() -> Iterator[ThreadedEngine]:
    with ThreadedEngine(Script(tokens=("Hello", " world"))) as running:
        yield running


@pytest.fixture
def program() -> list[str]:
    """The command, which looks for a server where none is, whatever runs on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lines = [
        "import reverie.cli.own_server as own",
        f"own.DEFAULT_URL = 'http://127.0.0.1:{port}'",
        "from reverie.cli import main",
        "main()",
    ]
    return ["-c", "; ".join(lines)]


def start(
    program: list[str], *arguments: str, cwd: Path, **environ: str
) -> subprocess.Popen[bytes]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("REVERIE_")}
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env={**inherited, "XDG_STATE_HOME": str(cwd / "state"), **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_answers_leaves_no_store_and_says_what_it_does(
    engine: ThreadedEngine, program: list[str], tmp_path: Path
) -> None:
    configure(tmp_path, engine, keyed=True)  # whose own callers need a key
    process = start(program, "run", "Hi", cwd=tmp_path, REVERIE_API_KEYS=KEY)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"Hello world\n"), err
    assert b"starting one until this ends" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("reverie.db*"))


def test_it_serves_the_model_of_the_configuration_that_is_named(
    engine: ThreadedEngine, program: list[str], tmp_path: Path
) -> None:
    configure(tmp_path, engine)
    process = start(program, "run", "Hi", "--model", "other", cwd=tmp_path)
    assert process.communicate(timeout=60)[0] == b"Hello world\n"


def test_a_model_that_nobody_knows_is_a_sentence(program: list[str], tmp_path: Path) -> None:
    process = start(program, "run", "Hi", "--model", "nobody-knows", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert err.splitlines()[-1].startswith(b"error: nobody-knows: there is no such model")


def test_a_server_that_can_not_start_is_told_in_its_own_words(
    engine: ThreadedEngine, program: list[str], tmp_path: Path
) -> None:
    configure(tmp_path, engine)
    process = start(
        program, "run", "Hi", cwd=tmp_path, REVERIE_SERVER_API_KEYS_FILE=str(tmp_path / "none")
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert b"api_keys_file" in err.splitlines()[-1]
    assert b"Traceback" not in err


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_it_is_gone_however_its_starter_ends(
    engine: ThreadedEngine, program: list[str], tmp_path: Path, end: signal.Signals
) -> None:
    configure(tmp_path, engine)
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    process = start(program, "run", "Hi", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"Hello"
    servers = children(process.pid)
    assert servers
    process.send_signal(end)
    _, err = process.communicate(timeout=60)
    expected = -end if end is signal.SIGKILL else 128 + end
    assert process.returncode == expected
    assert b"Traceback" not in err
    until_gone(servers)


def test_a_chat_of_its_own_survives_ctrl_c_and_its_server_ends_with_it(
    engine: ThreadedEngine, program: list[str], tmp_path: Path
) -> None:
    configure(tmp_path, engine)
    engine.scripts = [Script(tokens=("Wait", " more"), stall_after=1)]
    with terminal("chat", cwd=tmp_path, program=program) as shown:
        shown.until("/help lists commands")
        shown.until(">>> ")
        shown.type("Hi\r")
        shown.until("Wait")
        shown.type("\x03")
        shown.until("(stopped)")
        shown.until(">>> ")
        shown.type("Again\r")
        shown.until("Hello world")
        shown.until(">>> ")
        servers = children(shown.process.pid)
        assert servers
        shown.type("\x04")
        assert shown.end() == 0
    until_gone(servers)


def test_a_chat_that_is_ended_at_its_prompt_leaves_no_server(
    engine: ThreadedEngine, program: list[str], tmp_path: Path
) -> None:
    configure(tmp_path, engine)
    with terminal("chat", cwd=tmp_path, program=program) as shown:
        shown.until(">>> ")
        servers = children(shown.process.pid)
        assert servers
        shown.process.send_signal(signal.SIGTERM)
        assert shown.end() == 143
        assert "Traceback" not in shown.written
    until_gone(servers)


@pytest.mark.real
def test_the_default_model_answers_without_any_configuration(
    program: list[str], tmp_path: Path
) -> None:
    process = start(program, "run", "Say hello.", "--max-tokens", "16", cwd=tmp_path)
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    assert out.strip()
