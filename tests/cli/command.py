"""The command, as a process of its own or within the test's."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest

from reverie import cli
from tests import leaks

Run: TypeAlias = Callable[..., tuple[int, str, str]]


def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *verb: str
) -> Run:
    """Runs a verb within this process; gives its exit status, output and errors, without the line
    that names the store."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reverie", *verb, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        lines = printed.err.splitlines(keepends=True)
        errors = "".join(line for line in lines if not line.startswith("store: "))
        status = ended.value.code
        return status if isinstance(status, int) else 0, printed.out, errors

    return command


def reverie_here(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """As ``reverie``, without the second that a process takes to start."""
    output, problems = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(problems),
        pytest.raises(SystemExit) as ended,
    ):
        patched.setattr(sys, "argv", ["reverie", *arguments])
        for name, value in environ.items():
            patched.setenv(name, value)
        cli.main()
    leaks.note_command(arguments, output.getvalue(), problems.getvalue())
    code = ended.value.code
    status = code if isinstance(code, int) else 0
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), problems.getvalue())


def reverie(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``reverie`` with these arguments, and these variables on top of the usual ones."""
    return subprocess.run(
        [sys.executable, "-m", "reverie", *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command that failed said, a line for each mistake."""
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), done.stderr
    return [line.removeprefix("error: ") for line in lines]
