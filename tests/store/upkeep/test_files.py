from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.errors import UpkeepError
from reverie.store.upkeep.files import new_file


def test_a_file_is_there_as_a_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "b"
    old = os.umask(0)
    try:
        with new_file(path, replace=False) as file:
            file.write(b"all of it")
            assert not path.exists()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"all of it"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"old")
    with pytest.raises(UpkeepError, match="is there already"), new_file(path, replace=False):
        pass
    assert path.read_bytes() == b"old"
    with new_file(path, replace=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    """As root, a rename would put a backup in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(UpkeepError, match="is no file"), new_file(path, replace=True):
            pass
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with pytest.raises(UpkeepError, match="meanwhile"), new_file(path, replace=False) as file:
        file.write(b"mine")
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_file(path, replace=True) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_process_left_that_was_killed_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "b"
    (tmp_path / "b.part").write_bytes(b"half of an earlier one, and longer")
    with new_file(path, replace=False) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_dont_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with new_file(path, replace=True) as file:
        file.write(b"first")
        with pytest.raises(UpkeepError, match="another backup"), new_file(path, replace=True):
            pass
    assert path.read_bytes() == b"first"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow above 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, full_disk: None
) -> None:
    path = tmp_path / "b"
    with pytest.raises(UpkeepError, match="can't be written"), new_file(path, replace=False) as f:
        f.write(bytes(100_000))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_isnt_there_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UpkeepError, match=r"there is no folder .*/no; make it first"),
        new_file(tmp_path / "no" / "b", replace=False),
    ):
        pass


def test_a_link_that_another_laid_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "backup.part").symlink_to(victim)
    with (
        pytest.raises(UpkeepError, match="can't be written"),
        new_file(tmp_path / "backup", replace=False) as file,
    ):
        file.write(b"data")
    assert victim.read_text() == "precious"


def test_nothing_is_written_into_the_file_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backup.part").write_text("laid there")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with (
        pytest.raises(UpkeepError, match="is another user's"),
        new_file(tmp_path / "backup", replace=False) as file,
    ):
        file.write(b"data")
    assert (tmp_path / "backup.part").read_text() == "laid there"
