"""The verbs of the command line, and how their errors are reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import reverie
from reverie import cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command; give its exit status."""
    monkeypatch.setattr(sys, "argv", ["reverie", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"reverie {reverie.__version__}\n"


def test_help_names_every_verb_and_how_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for verb in ("serve", "pull", "models", "check", "keys", "usage"):
        assert f"\n  {verb} " in said
    assert "Start with: reverie serve" in said


def test_a_mistake_is_a_sentence_on_standard_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reverie.toml").write_text("[server]\nport = -1\nqueue_sise = 1\n")
    assert run(monkeypatch, "check") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[:3] for line in err.splitlines()] == [
        ["error", "reverie.toml", "server.port"],
        ["error", "reverie.toml", "server.queue_sise"],
    ]


def test_a_store_that_can_not_be_used_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REVERIE_STORE_URL", "sqlite:///reverie.db")
    (folder / "reverie.db").write_text("no database, but long enough to be read as one" * 50)
    assert run(monkeypatch, "keys", "list") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: store.url: the store can't be used: ")
    assert len(err.splitlines()) == 1


def test_an_unknown_model_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pull", "none") == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reverie.cli.commands.run", interrupted)
    assert run(monkeypatch, "models") == 130
