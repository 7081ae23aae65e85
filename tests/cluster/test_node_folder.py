from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reverie.cluster import node_folder as module
from reverie.cluster.node_folder import node_folder, remove_old_logs
from reverie.errors import ConfigurationError

PORT = 51000


@pytest.fixture(autouse=True)
def _own_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PARENT", 1000)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))


def test_nobody_else_can_enter_though_ray_opens_its_own_folder() -> None:
    with node_folder(PORT) as folder:
        folder.chmod(0o777)  # as Ray does
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    with node_folder(PORT) as again:
        assert again == folder


def test_a_second_command_with_the_same_ports_is_refused_until_the_first_ends() -> None:
    with node_folder(PORT), pytest.raises(ConfigurationError, match="--ports"):
        with node_folder(PORT):
            pass
    with node_folder(PORT):
        pass


def test_other_ports_have_another_folder() -> None:
    with node_folder(PORT) as one, node_folder(PORT + 1) as other:
        assert one != other


def test_a_folder_that_others_can_write_to_is_refused() -> None:
    with node_folder(PORT) as folder:
        folder.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        with node_folder(PORT):
            pass


def test_logs_of_the_last_sessions_are_kept_and_older_ones_removed() -> None:
    with node_folder(PORT) as folder:
        for number in range(4):
            (folder / f"session_{number}").mkdir()
            os.utime(folder / f"session_{number}", (number, number))
        (folder / "session_latest").symlink_to(folder / "session_3")
    with node_folder(PORT):
        assert {path.name for path in folder.iterdir()} == {
            "session_2",
            "session_3",
            "session_latest",
        }


def test_of_the_logs_of_processes_that_ended_the_latest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT_LOGS", 3)
    names = [f"worker-abc-01000000-99999{number}.err" for number in range(4)]
    names += ["python-core-worker-abc_999999.log", "python-core-worker-abc_999999.log.1"]
    for number, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    others = {f"worker-abc-01000000-{os.getpid()}.out", "raylet.out", "worker_pool.log"}
    for name in others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "old").mkdir()
    remove_old_logs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names[3:], *others, "old"}


def test_the_path_leaves_room_for_rays_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(module.tempfile, "tempdir", "/" + "long/" * 30)
    socket = "session_2026-11-30_08-06-09_935101_4194304/sockets/plasma_store.1"
    with node_folder(65535) as folder:
        assert len(os.fsencode(folder / socket)) <= 107
    folder.rmdir()
    folder.parent.rmdir()
