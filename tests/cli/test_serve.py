"""``reverie serve`` as a process: what signals do to it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.ports import free_port

pytestmark = pytest.mark.integration

PATIENCE = 60.0


class Serving:
    """A running ``reverie serve``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until it is true; gives what it gave."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)
        return value

    @property
    def log(self) -> str:
        """All that it has written to standard error."""
        return self._log.read_text()

    def lines(self, message: str) -> list[dict[str, Any]]:
        """What it has logged under this message."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        return [line for line in lines if line["message"] == message]

    @property
    def url(self) -> str:
        [line] = self.until(lambda: self.lines("listening"))
        return f"http://127.0.0.1:{line['port']}"

    def ask(self, model: str = "") -> str:
        """The answer to a request."""
        body = {"messages": [{"role": "user", "content": "Hi"}], "model": model}
        request = urllib.request.Request(
            f"{self.url}/llm", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            content: str = json.load(response)["choices"][0]["message"]["content"]
        return content


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def children(parent: int) -> list[int]:
    """The processes that it has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


@contextmanager
def serving(
    folder: Path,
    options: Sequence[str] = (),
    program: Sequence[str] = ("-m", "reverie"),
    environ: Mapping[str, str] | None = None,
    **popen: Any,
) -> Iterator[Serving]:
    log = folder / "log"
    usual = {**os.environ, "REVERIE_API_KEYS": "", "REVERIE_SERVER_LOG_FORMAT": "json"}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0", *options],
            cwd=folder,
            env=usual | {"XDG_STATE_HOME": str(folder / "state")} | dict(environ or {}),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            **popen,
        )
    try:
        yield Serving(process, log)
    finally:
        process.kill()
        process.wait()


def write(folder: Path, **models: str) -> None:
    """Write a configuration of models, each with the URL of its backend."""
    parts = [
        f'[[models]]\nname = "{name}"\n[[models.backends]]\nurl = "{url}"\n'
        for name, url in models.items()
    ]
    (folder / "reverie.toml").write_text("\n".join(parts))


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadedEngine(Script(tokens=("one",))) as engine:
        yield engine.url


def test_sighup_reloads_the_file_and_a_bad_one_changes_nothing(tmp_path: Path, url: str) -> None:
    with ThreadedEngine(Script(tokens=("two",))) as other:
        write(tmp_path, m=url)
        with serving(tmp_path, start_new_session=True) as server:
            assert server.ask() == "one"
            write(tmp_path, m=other.url, n=url)
            server.process.send_signal(signal.SIGHUP)
            [line] = server.until(lambda: server.lines("reloaded"))
            assert (line["added"], line["changed"]) == ("n", "m.backends")
            assert (server.ask(), server.ask("n")) == ("two", "one")

            (tmp_path / "reverie.toml").write_text("[server]\nqueue_sise = 1\n")
            server.process.send_signal(signal.SIGHUP)
            [line] = server.until(lambda: server.lines("not reloaded"))
            assert "server.queue_sise: unknown key" in line["reason"]
            assert (server.ask(), server.ask("n")) == ("two", "one")

            (tmp_path / "reverie.toml").unlink()
            server.process.send_signal(signal.SIGHUP)
            server.until(lambda: len(server.lines("not reloaded")) == 2)
            assert (
                server.lines("not reloaded")[1]["reason"] == "reverie.toml: there is no such file"
            )
            assert (server.ask(), server.ask("n")) == ("two", "one")

            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0


def test_a_pipe_in_the_files_place_hangs_neither_reloads_nor_the_end(
    tmp_path: Path, url: str
) -> None:
    file = tmp_path / "reverie.toml"
    write(tmp_path, m=url)
    with serving(tmp_path, start_new_session=True) as server:
        assert server.ask() == "one"
        file.unlink()
        os.mkfifo(file)
        server.process.send_signal(signal.SIGHUP)
        [line] = server.until(lambda: server.lines("not reloaded"))
        assert line["reason"].startswith("reverie.toml: can't be read: it is not a regular file")
        file.unlink()
        write(tmp_path, m=url, n=url)
        server.process.send_signal(signal.SIGHUP)
        [line] = server.until(lambda: server.lines("reloaded"))
        assert line["added"] == "n"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_configuration_may_come_through_a_pipe_which_is_not_read_again(
    tmp_path: Path, url: str
) -> None:
    write(tmp_path, m=url)
    text = (tmp_path / "reverie.toml").read_bytes()
    (tmp_path / "reverie.toml").unlink()
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    config = ["--config", f"/dev/fd/{reading}"]
    with serving(tmp_path, config, start_new_session=True, pass_fds=[reading]) as server:
        os.close(reading)
        assert server.ask() == "one"
        server.process.send_signal(signal.SIGHUP)
        [line] = server.until(lambda: server.lines("not reloaded"))
        assert "it is not a regular file, and a reload reads no other" in line["reason"]
        assert server.ask() == "one"


def test_what_of_a_livepeer_file_has_no_effect_is_a_line_of_the_log(
    tmp_path: Path, url: str
) -> None:
    file = tmp_path / "ai.json"
    entry = {"pipeline": "llm", "model_id": "m", "url": url, "odd": 1}
    file.write_text(json.dumps([entry]))
    with serving(tmp_path, ["--ai-models", "ai.json"], start_new_session=True) as server:
        said = "part of --ai-models has no effect"
        [line] = server.until(lambda: server.lines(said))
        assert line["remark"] == "ai.json: [0].odd: is not known here"
        server.until(lambda: server.lines("listening"))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.lines("reloaded"))
        assert len(server.lines(said)) == 2


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_closes_ends_the_server_unless_it_was_to_outlive_it(
    tmp_path: Path, url: str, nohup: bool
) -> None:
    write(tmp_path, m=url)
    ours, its = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with serving(tmp_path, start_new_session=True, stdin=its, preexec_fn=take_terminal) as server:
        os.close(its)
        assert server.ask() == "one"
        os.close(ours)
        if nohup:
            server.until(lambda: server.lines("reloaded"))
            assert server.ask() == "one"
        else:
            assert server.process.wait(PATIENCE) == 0
            assert server.lines("draining")


def test_a_terminal_that_closes_during_the_start_ends_the_server_too(
    tmp_path: Path, url: str
) -> None:
    write(tmp_path, m=url)
    text = (tmp_path / "reverie.toml").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    ours, its = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    config = ["--config", "pipe"]
    terminal: dict[str, Any] = {"stdin": its, "preexec_fn": take_terminal}
    with serving(tmp_path, config, start_new_session=True, **terminal) as server:
        os.close(its)
        with (tmp_path / "pipe").open("wb") as writing:  # opened, since it is about to read
            os.close(ours)
            writing.write(text)
        assert server.process.wait(PATIENCE) == 0
        assert not server.lines("reloaded")
        assert not server.lines("not reloaded")


def test_sighup_before_the_server_is_up_is_obeyed_once_it_is(tmp_path: Path, url: str) -> None:
    write(tmp_path, m=url)
    text = (tmp_path / "reverie.toml").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with serving(tmp_path, ["--config", "pipe"], start_new_session=True) as server:
        with pipe.open("wb") as writing:  # opened, since it is about to read
            server.process.send_signal(signal.SIGHUP)
            writing.write(text)
        assert server.ask() == "one"
        [line] = server.until(lambda: server.lines("not reloaded"))
        assert line["reason"].startswith("pipe: can't be read")
        for _ in range(100):
            server.process.send_signal(signal.SIGHUP)
        assert server.ask() == "one"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_start_ends_it_though_a_thread_still_works(
    tmp_path: Path, url: str, end: signal.Signals
) -> None:
    write(tmp_path, m=url)
    with (tmp_path / "reverie.toml").open("a") as file:
        file.write("[store]\ntimeout = 60\n")
    file = tmp_path / "state" / "reverie" / "reverie.db"
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file, isolation_level=None)) as store:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("BEGIN EXCLUSIVE")  # which the start waits for
        port = free_port()
        with serving(tmp_path, ["--port", str(port)], start_new_session=True) as server:
            server.until(lambda: accepts(port))
            if end is signal.SIGHUP:
                server.process.send_signal(end)
                store.execute("ROLLBACK")
                server.until(lambda: server.lines("reloaded"))
                assert server.ask() == "one"
                return
            server.process.send_signal(end)
            assert server.process.wait(PATIENCE) == 0
            assert "Traceback" not in server.log
            assert not server.lines("listening")


def test_a_signal_while_an_engine_is_started_leaves_none_behind(tmp_path: Path) -> None:
    text = '[[models]]\nname = "m"\nsource = "smollm2-135m"\ncontext = 512\nslots = 1\n'
    (tmp_path / "reverie.toml").write_text(text)
    with serving(tmp_path, start_new_session=True) as server:
        engines = server.until(lambda: children(server.process.pid))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.log
        assert not [engine for engine in engines if Path(f"/proc/{engine}").exists()]


@pytest.mark.parametrize("further", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_further_signals_do_not_keep_it_from_stopping_in_order(
    tmp_path: Path, url: str, further: signal.Signals
) -> None:
    write(tmp_path, m=url)
    with serving(tmp_path, start_new_session=True) as server:
        assert server.ask() == "one"
        server.process.send_signal(signal.SIGTERM)
        while server.process.poll() is None:
            server.process.send_signal(further)
            time.sleep(0.005)
        assert server.process.returncode == 0
        assert len(server.lines("stopped")) == 1


def with_ollamas_port(port: int) -> list[str]:
    """The program, with another port in place of Ollama's own, which may be taken here."""
    lines = "import reverie.addresses", f"reverie.addresses.OLLAMA_PORT = {port}"
    return ["-c", "; ".join([*lines, "from reverie.cli import main", "main()"])]


def test_ollamas_api_is_served_on_its_own_port_too(tmp_path: Path, url: str) -> None:
    write(tmp_path, m=url)
    port = free_port()
    with serving(tmp_path, ["--ollama"], with_ollamas_port(port)) as server:
        for base in (server.url, f"http://127.0.0.1:{port}"):
            with urllib.request.urlopen(f"{base}/api/tags") as response:
                assert [model["name"] for model in json.load(response)["models"]] == ["m:latest"]
        assert server.ask() == "one"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    assert not accepts(port)


def test_a_port_of_ollamas_that_is_taken_is_told_in_one_sentence(tmp_path: Path, url: str) -> None:
    write(tmp_path, m=url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, ["--ollama"], with_ollamas_port(port)) as server:
            assert server.process.wait(PATIENCE) == 1
            assert server.log.splitlines() == [
                f"error: --ollama: can't listen on 127.0.0.1 port {port}: Address already in use; "
                "end what listens there, or set server.ollama, which needs no port of its own"
            ]


def test_a_port_that_is_taken_is_told_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "no models"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, ["--port", str(port)]) as server:
            assert server.process.wait(PATIENCE) == 1
            (line,) = server.log.splitlines()
    assert line.startswith(f"error: server.port: can't listen on 127.0.0.1 port {port}: ")
