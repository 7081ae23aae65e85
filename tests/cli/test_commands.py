"""The verbs of the command line, and how their errors are reported."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer

import reverie
from reverie import cli
from reverie.cli.commands import app

REVERIE = str(Path(sys.executable).with_name("reverie"))
_ROOT: Any = typer.main.get_command(app)
VERBS = tuple(_ROOT.commands)
ALL = [(verb,) for verb in VERBS] + [("keys", verb) for verb in _ROOT.commands["keys"].commands]
"""Every verb that there is, those of ``keys`` included."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command; give its exit status."""
    monkeypatch.setattr(sys, "argv", ["reverie", *arguments])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:  # serve blocks SIGHUP, which other tests' processes would inherit
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return int(ended.value.code or 0)


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"reverie {reverie.__version__}"
    told = dict(line.split(" ", 1) for line in rest)
    assert told["python"] == platform.python_version()
    assert told["sqlite"] == sqlite3.sqlite_version
    assert told["xllamacpp"] == metadata.version("xllamacpp")


def test_help_names_every_verb_and_how_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in said
    assert "Start with:" in said
    assert "reverie serve " in said
    assert "..." not in said.partition("Commands:")[2]  # nothing is cut short
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("verb", ALL, ids=" ".join)
def test_every_verb_explains_itself_within_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, *verb, "--help") == 0
    said = capsys.readouterr().out
    assert f"reverie {' '.join(verb)}" in said.splitlines()[0]
    assert max(map(len, said.splitlines())) <= 80


def test_without_a_verb_the_help_is_shown_and_the_exit_status_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 2
    printed = capsys.readouterr()
    assert "Start with:" in printed.out + printed.err


@pytest.mark.parametrize("verb", ALL, ids=" ".join)
def test_an_option_that_no_verb_has_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *verb, "--colour") == 2
    assert "--colour" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "reverie st", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "reverie st"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "reverie st", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_completes_verbs(shell: str, typed: dict[str, str]) -> None:
    done = subprocess.run(
        [REVERIE],
        env=os.environ | typed | {"_REVERIE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "status" in done.stdout, done
    assert "pull" not in done.stdout


@pytest.mark.integration
def test_completion_is_installed_for_the_shell_that_asks(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{REVERIE} --install-completion bash || exit 1"],
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert "_REVERIE_COMPLETE" in "".join(
        file.read_text() for file in folder.rglob("*") if file.is_file()
    )


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
