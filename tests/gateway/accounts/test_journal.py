"""Settlements in the journal are there for whoever starts next, torn lines and all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from reverie.gateway.accounts.journal import Journal, directory, left_behind
from reverie.store.settlements import Settlement

CHILD = """
import os, sys
from pathlib import Path
from reverie.gateway.accounts.journal import Journal
from reverie.store.settlements import Settlement
journal = Journal(Path(sys.argv[1]), durable=False)
for id in range(1, 4):
    journal.append(Settlement(id=id, outcome="ok", ended_at=id))
os.kill(os.getpid(), 9)
"""


def settlement(id: int) -> Settlement:
    return Settlement(
        id=id, outcome="cancelled", prompt_tokens=5, completion_tokens=id, backend="b", ended_at=9
    )


def entries(folder: Path) -> list[int]:
    with left_behind(folder) as found:
        return [entry.id for entry in found]


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_appended_is_pending_until_it_is_done(tmp_path: Path, durable: bool) -> None:
    journal = Journal(tmp_path, durable=durable)
    for id in (1, 2, 3):
        journal.append(settlement(id))
    assert [entry.id for entry in journal.pending] == [1, 2, 3]
    journal.done(2)
    assert journal.pending == [settlement(3)]
    journal.done(1)
    assert list(tmp_path.iterdir()) == []


def test_the_journal_of_a_gateway_that_lives_is_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path, durable=False)
    journal.append(settlement(1))
    assert entries(tmp_path) == []
    assert journal.pending == [settlement(1)]
    journal.done(1)


@pytest.mark.parametrize("begins_anew", [True, False])
def test_a_journal_that_its_gateway_removes_while_it_is_looked_at_was_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins_anew: bool
) -> None:
    journal = Journal(tmp_path, durable=False)
    journal.append(settlement(1))
    flock = fcntl.flock

    def flock_a_moment_later(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        journal.done(1)
        if begins_anew:
            journal.append(settlement(2))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock_a_moment_later)
    assert entries(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == begins_anew
    journal.done(1)


@pytest.mark.integration
def test_what_a_killed_gateway_wrote_is_left_behind_once(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=False)
    assert entries(tmp_path) == [1, 2, 3]
    assert entries(tmp_path) == []


@pytest.mark.integration
def test_entries_stay_if_they_could_not_be_brought_to_the_store(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=False)

    def fail() -> None:
        with left_behind(tmp_path):
            raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError):
        fail()
    assert entries(tmp_path) == [1, 2, 3]


@pytest.mark.integration
def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=False)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert entries(tmp_path) == [1, 2]


def test_nothing_was_left_behind_where_no_gateway_ever_ran(tmp_path: Path) -> None:
    assert entries(tmp_path / "none") == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        Journal(tmp_path / "file" / "journal", durable=False).append(settlement(1))


def test_each_store_has_a_folder_of_its_own_that_tells_nothing_of_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = (
        directory("postgresql://u:secret@host/a"),
        directory("postgresql://u:secret@host/b"),
    )
    assert one != other
    assert one.is_relative_to(tmp_path)
    assert "secret" not in os.fspath(one)


def test_files_of_one_name_in_two_directories_are_two_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway would apply the other's settlements to its own rows of the same numbers."""
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        folders.append(directory("sqlite:///reverie.db"))
    assert folders[0] != folders[1]
    assert folders[1] == directory(f"sqlite:///{tmp_path}/b/reverie.db")


def test_a_journal_that_can_not_be_read_is_told_of_after_the_others_were(tmp_path: Path) -> None:
    for name in ("a", "c"):
        line = msgspec.json.encode(settlement(ord(name)))
        (tmp_path / f"{name}.jsonl").write_bytes(line + b"\n")
    (tmp_path / "b.jsonl").mkdir()
    found: list[int] = []
    with pytest.raises(IsADirectoryError), left_behind(tmp_path) as left:
        found = [entry.id for entry in left]
    assert found == [ord("a"), ord("c")]
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]
