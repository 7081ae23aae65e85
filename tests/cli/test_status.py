"""``reverie status``: what a server tells of itself, to those who may know it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.command import errors, reverie
from tests.cli.gateway import KEY, gateway
from tests.cli.terminal import terminal
from tests.cli.test_serve import Serving

pytestmark = pytest.mark.integration

ADMIN = "rv_admin-key-of-32-characters-or-more"


@pytest.fixture
def engine() -> Iterator[ThreadedEngine]:
    with ThreadedEngine(Script(tokens=("Hello",))) as running:
        yield running


@pytest.fixture
def server(
    engine: ThreadedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serving]:
    monkeypatch.setenv("REVERIE_ADMIN_KEY", ADMIN)
    with gateway(tmp_path / "served", engine, keyed=True) as running:
        assert running.url
        monkeypatch.delenv("REVERIE_ADMIN_KEY")
        yield running


def test_json_has_health_models_slots_queue_and_backends(server: Serving) -> None:
    keys = {"REVERIE_API_KEY": KEY, "REVERIE_ADMIN_KEY": ADMIN}
    done = reverie("status", "--json", "--url", server.url, **keys)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["status"], report["draining"]) == ("OK", False)
    assert report["models"] == [
        {
            "name": "m",
            "state": "ready",
            "waiting": 0,
            "in_flight": 0,
            "slots": 3,
            "aliases": ["other"],
            "task": "generate",
        }
    ]
    [backend] = report["backends"]
    assert (backend["model"], backend["ready"], backend["slots"]) == ("m", True, 3)


def test_in_a_pipe_it_is_plain_lines(server: Serving) -> None:
    done = reverie("status", REVERIE_URL=server.url, REVERIE_API_KEY=KEY, REVERIE_ADMIN_KEY=ADMIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("OK: Reverie ")
    assert done.stdout.isascii()
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert lines[1] == f"A page to chat on: {server.url}/".split()
    del lines[1]
    assert lines[1] == ["model", "state", "task", "slots", "queue", "aliases"]
    assert lines[2] == ["m", "ready", "generate", "0/3", "0", "other"]
    assert lines[3][:3] == ["model", "backend", "state"]
    assert lines[4][0] == "m"


def test_without_a_key_it_tells_what_everyone_may_know(server: Serving) -> None:
    done = reverie("status", "--json", "--url", server.url)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert [(model["name"], model["state"]) for model in report["models"]] == [("m", "ready")]
    assert "aliases" not in report["models"][0]
    assert "backends" not in report


def test_a_wrong_admin_key_is_a_sentence(server: Serving) -> None:
    done = reverie("status", "--url", server.url, REVERIE_ADMIN_KEY="rv_wrong")
    [sentence] = errors(done)
    assert "rv_wrong" not in sentence


def test_it_fits_80_columns(server: Serving, tmp_path: Path) -> None:
    keys = {"REVERIE_API_KEY": KEY, "REVERIE_ADMIN_KEY": ADMIN}
    with terminal("status", "--url", server.url, cwd=tmp_path, **keys) as shown:
        assert shown.end() == 0
        assert max(map(len, shown.screen)) <= 80
        assert "0/3" in "\n".join(shown.screen)


def test_no_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert errors(reverie("status", "--url", url)) == [
        f"No server answers at {url} (Connection refused)."
    ]


def test_another_server_is_told_from_a_reverie(engine: ThreadedEngine) -> None:
    [sentence] = errors(reverie("status", "--url", engine.url))
    assert sentence == f"{engine.url.removesuffix('/v1')} doesn't answer as Reverie does."


def test_a_server_whose_backends_are_all_gone_exits_with_1(
    engine: ThreadedEngine, tmp_path: Path
) -> None:
    engine.kill()
    with gateway(tmp_path / "served", engine) as server:
        url = server.url
        server.until(lambda: reverie("status", "--url", url, "--json").returncode == 1)
        done = reverie("status", "--url", url)
        assert done.stdout.startswith("ERROR: ")
        assert "down" in done.stdout
