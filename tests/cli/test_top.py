"""``reverie top``: what runs, in a terminal and in a pipe."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.command import errors, reverie
from tests.cli.gateway import KEY, gateway
from tests.cli.terminal import terminal
from tests.cli.test_serve import Serving

pytestmark = pytest.mark.integration

ADMIN = "rv_admin-key-of-32-characters-or-more"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setenv("REVERIE_ADMIN_KEY", ADMIN)
    with (
        ThreadedEngine(Script(tokens=["word "] * 5_000, delay=0.02)) as engine,
        gateway(tmp_path / "served", engine, keyed=True) as running,
    ):
        assert running.url
        monkeypatch.delenv("REVERIE_ADMIN_KEY")
        yield running


@pytest.fixture
def busy(server: Serving) -> Iterator[list[int]]:
    """A request that runs; the statuses of those that have ended."""
    ended: list[int] = []

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5_000}
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "my-request"}
        answer = httpx.post(f"{server.url}/llm", json=body, headers=headers, timeout=120)
        ended.append(answer.status_code)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    while "my-request" not in reverie("top", "--json", "--url", server.url, **KEYS).stdout:
        assert thread.is_alive()
    yield ended
    reverie_url = f"{server.url}/admin/v1/requests/my-request/cancel"
    httpx.post(reverie_url, headers={"Authorization": f"Bearer {ADMIN}"})
    thread.join(60)


KEYS = {"REVERIE_ADMIN_KEY": ADMIN}


def test_in_a_pipe_it_is_one_look_in_plain_lines(server: Serving, busy: list[int]) -> None:
    done = reverie("top", "--url", server.url, **KEYS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 running, 0 waiting, 1 of 3 slots in use\n")
    heads, row = (line.split() for line in done.stdout.splitlines()[-2:])
    assert heads == ["id", "key", "model", "backend", "state", "s", "ttft", "tokens"]
    assert row[:3] == ["my-request", "alice", "m"]
    whole = json.loads(reverie("top", "--json", "--url", server.url, **KEYS).stdout)
    assert [request["id"] for request in whole["requests"]] == ["my-request"]


def test_in_a_terminal_a_request_is_chosen_and_cancelled(
    server: Serving, busy: list[int], tmp_path: Path
) -> None:
    with terminal("top", "--url", server.url, cwd=tmp_path, columns=120, **KEYS) as shown:
        shown.until("my-request")
        shown.type("s")
        shown.type("j")
        shown.type("c")
        shown.until("cancelled my-request")
        shown.type("q")
        assert shown.end() == 0
    while not busy:
        pass
    assert busy == [409]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (40, 10)])
def test_it_fits_the_window_and_its_keys_sort_and_cancel(
    server: Serving, busy: list[int], tmp_path: Path, columns: int, lines: int
) -> None:
    size = {"columns": columns, "lines": lines}
    with terminal("top", "--url", server.url, cwd=tmp_path, **size, **KEYS) as shown:
        shown.until("my-requ")
        shown.type("s")
        shown.until("sorted by tokens")
        shown.type("\x1b[Bc")
        shown.until("cancelled my-request")
        shown.until("\x1b[H")
        frame = shown.until("c cancel")
        shown.type("q")
        assert shown.end() == 0
    drawn = [line.rstrip() for line in frame.replace("\r", "").splitlines()]
    assert max(map(len, drawn)) <= columns
    assert len(drawn) <= lines
    text = "\n".join(drawn)
    assert "0 running, 0 waiting, 0 of 3 slots" in text
    assert "today: " in text
    while not busy:
        pass
    assert busy == [409]


def test_it_tells_what_today_has_cost_and_how_each_backend_does(
    server: Serving, busy: list[int]
) -> None:
    done = reverie("top", "--once", "--url", server.url, **KEYS)
    assert "\ntoday: 0.00 for 0 requests, 0 prompt and 0 completion tokens\n" in done.stdout
    assert "ready, 1/3 slots" in done.stdout
    httpx.post(
        f"{server.url}/admin/v1/requests/my-request/cancel",
        headers={"Authorization": f"Bearer {ADMIN}"},
    )
    while not busy:
        pass
    spent = json.loads(reverie("top", "--json", "--url", server.url, **KEYS).stdout)["today"]
    assert spent["requests"] == 1
    assert spent["costs"][0]["currency"] == "USD"
    assert spent["costs"][0]["nano"] > 0


def test_without_the_admin_key_it_says_which_variable(server: Serving) -> None:
    done = reverie("top", "--url", server.url)
    assert done.returncode == 1
    assert errors(done) == ["Set REVERIE_ADMIN_KEY to the server's admin key."]


def test_a_wrong_key_and_no_server_are_sentences(server: Serving) -> None:
    done = reverie("top", "--url", server.url, REVERIE_ADMIN_KEY="rv_" + "x" * 40)
    assert done.returncode == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = reverie("top", "--url", url, **KEYS)
    assert (done.returncode, len(errors(done))) == (1, 1)


class Other(BaseHTTPRequestHandler):
    """Another server, which answers everything with JSON of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": ["a", 5], "requests": [1], "models": {}, "model_id": "a"}')

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("verb", ["top", "status"])
def test_json_of_another_server_is_a_sentence(verb: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        [sentence] = errors(reverie(verb, "--url", url, **KEYS))
        assert "doesn't answer as Reverie does" in sentence
        other.shutdown()
