"""Which store a command says that it uses, and a store that is left in the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.cli.stores import left_behind, whereabouts
from reverie.paths import state_directory
from reverie.settings import StoreSettings
from tests.cli.command import reverie


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an empty state directory beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for variable in ("REVERIE_CONFIG", "REVERIE_STORE_URL"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("none", "none are kept"),
        ("sqlite:////var/x.db", "/var/x.db"),
        ("postgresql://u:hidden@db.local:99/r?sslmode=require", "postgresql://db.local:99/r"),
        ("postgresql://u:hidden@db.local/r?password=hidden", "postgresql://db.local/r"),
    ],
)
def test_a_store_is_named_without_its_secrets(url: str, said: str) -> None:
    assert whereabouts(StoreSettings(url=url)) == said


def test_a_relative_file_is_named_whole(folder: Path) -> None:
    assert whereabouts(StoreSettings(url="sqlite:///x.db")) == str(folder / "x.db")


def test_the_default_is_one_file_wherever_a_command_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = whereabouts(StoreSettings())
    monkeypatch.chdir(folder.parent)
    assert here == whereabouts(StoreSettings()) == str(state_directory() / "reverie.db")


def test_an_old_store_in_the_working_directory_is_named_and_how_to_go_on_with_it(
    folder: Path,
) -> None:
    assert left_behind(StoreSettings()) is None
    (folder / "reverie.db").touch()
    said = left_behind(StoreSettings())
    assert said is not None
    assert "REVERIE_STORE_URL=sqlite:///reverie.db" in said
    assert left_behind(StoreSettings(url="sqlite:///reverie.db")) is None


def test_the_default_store_itself_is_not_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    state_directory().mkdir(parents=True)
    (state_directory() / "reverie.db").touch()
    monkeypatch.chdir(state_directory())
    assert left_behind(StoreSettings()) is None


@pytest.mark.integration
def test_keys_made_in_one_directory_are_there_in_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reverie("keys", "create", "--name", "alice")
    assert made.stderr == f"store: {state_directory() / 'reverie.db'}\n"
    assert list(folder.iterdir()) == []
    assert state_directory().stat().st_mode & 0o777 == 0o700
    other = folder / "other"
    other.mkdir()
    (other / "reverie.db").write_bytes(b"")
    monkeypatch.chdir(other)
    listed = reverie("keys", "list", "--json")
    assert '"alice"' in listed.stdout
    assert [line.split(":")[0] for line in listed.stderr.splitlines()] == ["warning", "store"]
    assert (other / "reverie.db").read_bytes() == b""
