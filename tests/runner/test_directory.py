from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.runner.directory import KEY_NAME, SOCKET_NAME, TEMPLATE_NAME, PrivateDirectory


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as path:  # short enough for a socket
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def _age(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / SOCKET_NAME))
    os.utime(directory, (0, 0))


def test_an_abandoned_directory_is_cleared_and_a_used_one_is_not(temporary: Path) -> None:
    used = PrivateDirectory()
    abandoned = temporary / "reverie-abandoned"
    abandoned.mkdir()
    foreign = temporary / "reverie-of-someone-else"
    foreign.mkdir()
    os.utime(foreign, (0, 0))
    killed_early = temporary / "reverie-killed-early"
    killed_early.mkdir()
    for name in (TEMPLATE_NAME, KEY_NAME):
        (killed_early / name).touch()
    os.utime(killed_early, (0, 0))
    shared = temporary / "reverie-shared"
    shared.mkdir()
    for name in (TEMPLATE_NAME, "notes.txt"):
        (shared / name).touch()
    os.utime(shared, (0, 0))
    for directory in (used.path, abandoned):
        _age(directory)

    fresh = PrivateDirectory()
    assert sorted(temporary.iterdir()) == sorted([used.path, foreign, shared, fresh.path])
    for directory in (used, fresh):
        directory.remove()
        directory.remove()
    assert sorted(temporary.iterdir()) == sorted([foreign, shared])


def test_a_long_temporary_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    directory = PrivateDirectory()
    try:
        assert directory.path.parent == Path("/tmp")
    finally:
        directory.remove()
