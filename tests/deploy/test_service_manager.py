"""``reverie serve`` under a service manager: what it is told, and restarts that lose nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.deploy.service_manager import PATIENCE, lines, service, write

pytestmark = pytest.mark.integration

BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()


def ask(port: int) -> str:
    """The answer to a request on a connection of its own."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/llm", BODY, headers)
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as refusal:
        pytest.fail(refusal.read().decode())
    with answer as response:
        content: str = json.load(response)["choices"][0]["message"]["content"]
    return content


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_restart_loses_no_request(tmp_path: Path, workers: str) -> None:
    answered: list[str] = []
    over = threading.Event()

    def go_on_asking(port: int) -> None:
        while not over.is_set():
            answered.append(ask(port))

    with (
        ThreadedEngine(Script(tokens=("one",))) as engine,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
        ThreadPoolExecutor(4) as clients,
    ):
        port = listener.getsockname()[1]
        write(tmp_path, engine.url)
        try:
            with service(tmp_path, [listener], "--workers", workers) as first:
                first.until_told("READY=1")
                asking = [clients.submit(go_on_asking, port) for _ in range(4)]
                before = len(answered)
                while len(answered) < before + 8:
                    time.sleep(0.01)
                assert first.end() == 0
                assert any("STOPPING=1" in message for message in first.told)
            after = len(answered)
            with service(tmp_path, [listener], "--workers", workers) as second:
                while len(answered) < after + 8:
                    assert second.process.poll() is None, second.log
                    time.sleep(0.01)
                over.set()
                for one in asking:
                    one.result()
                assert second.end() == 0
        finally:
            over.set()
        assert set(answered) == {"one"}


def test_an_answer_that_runs_at_the_end_is_completed_and_its_connection_closed(
    tmp_path: Path,
) -> None:
    script = Script(tokens=("one", " two"), stall_after=1)
    with (
        ThreadedEngine(script) as engine,
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(HTTPConnection(*listener.getsockname(), timeout=PATIENCE)) as client,
    ):
        write(tmp_path, engine.url)
        with service(tmp_path, [listener]) as running:
            running.until_told("READY=1")
            body = json.dumps({**json.loads(BODY), "stream": True})
            client.request("POST", "/llm", body)
            response = client.getresponse()
            assert b"one" in response.readline()
            running.process.terminate()
            running.until_told("STOPPING=1")
            engine.resume()
            assert running.process.wait(PATIENCE) == 0
            assert b"[DONE]" in response.read()


def test_requests_on_kept_and_on_fresh_connections_are_answered_while_it_ends(
    tmp_path: Path,
) -> None:
    with (
        ThreadedEngine(Script(tokens=("one",))) as engine,
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(HTTPConnection(*listener.getsockname(), timeout=PATIENCE)) as kept,
        closing(HTTPConnection(*listener.getsockname(), timeout=PATIENCE)) as fresh,
    ):
        write(tmp_path, engine.url)
        with service(tmp_path, [listener]) as running:
            running.until_told("READY=1")
            kept.request("GET", "/healthz")
            kept.getresponse().read()
            fresh.connect()
            kept.request("GET", "/healthz")  # by now the other one is accepted, too
            kept.getresponse().read()
            running.process.terminate()
            running.until_told("STOPPING=1")
            fresh.request("POST", "/llm", BODY)
            response = fresh.getresponse()
            assert (response.status, response.headers["Connection"]) == (200, "close")
            assert running.process.wait(PATIENCE) == 0
            assert not lines(running.log, "some requests didn't end")


def test_a_unix_socket_and_one_of_tcp_are_served_and_reloads_are_told(tmp_path: Path) -> None:
    path = tmp_path / "reverie.sock"
    with (
        ThreadedEngine(Script(tokens=("one",))) as engine,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as unix,
        closing(UnixConnection(path)) as client,
    ):
        unix.bind(str(path))
        unix.listen()
        write(tmp_path, engine.url)
        with service(tmp_path, [unix, listener], abstract=True) as running:
            running.until_told("READY=1")
            assert ask(listener.getsockname()[1]) == "one"
            client.request("POST", "/llm", BODY)
            assert json.load(client.getresponse())["choices"][0]["message"]["content"] == "one"
            [listening] = lines(running.log, "listening")
            assert (listening["host"], listening["port"]) == (str(path), 0)

            running.process.send_signal(signal.SIGHUP)
            running.until_told("READY=1", times=2)
            assert [one for one in running.told if one.startswith("RELOADING=1\nMONOTONIC_USEC=")]
            [reloaded] = lines(running.log, "reloaded")
            assert "server" not in str(reloaded)
            assert running.end() == 0


def test_a_loop_that_hangs_says_no_more_that_it_lives(tmp_path: Path) -> None:
    with (
        ThreadedEngine(Script(tokens=("one",))) as engine,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        write(tmp_path, engine.url)
        with service(tmp_path, [listener], environ={"WATCHDOG_USEC": "300000"}) as running:
            running.until_told("READY=1")
            running.until_told("WATCHDOG=1", times=3)
            running.process.send_signal(signal.SIGSTOP)
            # A process that is stopped at once can't be told from one that hangs.
            stat = Path(f"/proc/{running.process.pid}/stat")
            while stat.read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.01)
            ask_later = len(running.told)
            time.sleep(0.5)
            assert len(running.told) <= ask_later + 1
            running.process.send_signal(signal.SIGCONT)
            running.until_told("WATCHDOG=1", times=ask_later + 2)


def test_a_socket_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    with (
        ThreadedEngine(Script(tokens=("one",))) as engine,
        socket.create_server(("0.0.0.0", 0)) as listener,
    ):
        write(tmp_path, engine.url)
        with service(tmp_path, [listener]) as running:
            assert running.process.wait(PATIENCE) == 1
            assert (
                "0.0.0.0 can be reached from other machines, and no API key is set" in running.log
            )


def test_systemds_own_program_can_hand_sockets_over(tmp_path: Path) -> None:
    """``systemd-socket-activate`` does it as systemd does."""
    with ThreadedEngine(Script(tokens=("one",))) as engine:
        write(tmp_path, engine.url)
        path = tmp_path / "reverie.sock"
        command = [sys.executable, "-m", "reverie", "serve"]
        kept = ("PYTHONPATH", "PATH", "HOME", "XDG_STATE_HOME")
        environ = [f"--setenv={name}" for name in kept if name in os.environ]
        process = subprocess.Popen(
            ["systemd-socket-activate", f"--listen={path}", *environ, *command],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.01)
            with closing(UnixConnection(path)) as client:
                client.request("POST", "/llm", BODY)
                answer = json.load(client.getresponse())
            assert answer["choices"][0]["message"]["content"] == "one"
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
