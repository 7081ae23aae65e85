"""Which store a command says that it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.cli.stores import whereabouts
from reverie.settings import StoreSettings
from tests.cli.command import reverie


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
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


def test_the_default_is_a_file_of_the_working_directory(folder: Path) -> None:
    assert whereabouts(StoreSettings()) == str(folder / "reverie.db")


@pytest.mark.integration
def test_a_command_says_which_store_it_used(folder: Path) -> None:
    made = reverie("keys", "create", "--name", "alice")
    assert made.stderr == f"store: {folder / 'reverie.db'}\n"
    listed = reverie("keys", "list", "--json")
    assert '"alice"' in listed.stdout
    assert listed.stderr == f"store: {folder / 'reverie.db'}\n"
