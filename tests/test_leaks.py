"""A secret that anything writes fails its test, whichever way it comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

TESTS = """
import asyncio, logging, os, subprocess, sys
import pytest

KEY = "rv_" + "made-by-a-test"
PROMPT = "planted" + "-question"
SAY = "import os, sys; print(os.environ['IT'], file=sys.stdout if %r else sys.stderr)"

def child(what, to_stdout, *words, **options):
    command = [sys.executable, "-c", SAY % to_stdout, *words]
    return subprocess.Popen(command, env={**os.environ, "IT": what}, **options)

def test_record():
    logging.getLogger("reverie").debug("it", extra={"fields": {"key": KEY}})

def test_traceback():
    try:
        raise ValueError(PROMPT)
    except ValueError:
        logging.getLogger("x").exception("it failed")

def test_print():
    print(PROMPT)

def test_captured(capsys):
    print(KEY, file=sys.stderr)
    assert capsys.readouterr().err

def test_inherited():
    child(KEY, False).wait()

def test_run():
    with child(KEY, True, stdout=subprocess.PIPE) as process:
        process.communicate()

def test_read():
    with child(KEY, False, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline()

def test_asynchronous():
    async def run():
        command = [sys.executable, "-c", SAY % True]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "IT": KEY})
        await process.communicate()
    asyncio.run(run())

def test_variable(monkeypatch):
    monkeypatch.setenv("BIG_KEY", "no-key-of-ours")
    with child("no-key-of-ours", True, stdout=subprocess.PIPE) as process:
        process.communicate()

def test_password():
    with child("postgresql://u:pass-word@h/d", True, stdout=subprocess.PIPE) as process:
        process.communicate()

def test_teardown(request):
    request.addfinalizer(lambda: print(KEY))

def test_handed_out():
    with child(KEY, True, "keys", "create", stdout=subprocess.PIPE) as process:
        process.communicate()

def test_asserted():
    assert "it is in a test's own words alone: " + KEY

def test_harmless(tmp_path):
    (tmp_path / "reverie.toml").write_text(KEY)
    print("rv_*** planted", KEY[:5])
"""
FILE = """
def test_file(tmp_path):
    (tmp_path / "engine.log").write_text("planted" + "-question\\n")
"""
LEAKING = (
    "record",
    "traceback",
    "print",
    "captured",
    "inherited",
    "run",
    "read",
    "asynchronous",
    "variable",
    "password",
    "teardown",
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Outside this session's folders, whose logs are searched, too."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def session(folder: Path, tests: str, *options: str) -> tuple[int, str]:
    """A session's exit status, and what it reports."""
    (folder / "test_it.py").write_text(tests)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rA", "--show-capture=no", "-p", "tests.leaks"),
            *(f"--rootdir={folder}", f"--basetemp={folder}/tmp", "-o", "log_level=DEBUG"),
            *(*options, str(folder)),
        ],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"COLUMNS": "200", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, re.sub(r" \S*test_it\.py::", " ", done.stdout)


@pytest.fixture(scope="module")
def report(folder: Path) -> str:
    status, said = session(folder, TESTS)
    assert status == 1
    return said


@pytest.mark.parametrize("name", LEAKING)
def test_a_secret_that_is_written_fails_its_test(report: str, name: str) -> None:
    assert f"ERROR test_{name} - Secrets were written:" in report


@pytest.mark.parametrize("name", ["handed_out", "asserted", "harmless"])
def test_others_pass(report: str, name: str) -> None:
    assert f"PASSED test_{name}" in report
    assert f"ERROR test_{name}" not in report


def test_the_report_says_what_it_was_and_where_but_not_the_secret(report: str) -> None:
    for sentence in (
        "a key is in a log record: reverie it {'key': 'rv_***'}",
        "a planted text is in captured stdout: pla***",
        "the value of BIG_KEY is in the stdout of python",
        "the password of a URL is in the stdout of python",
        "postgresql://u:pas***@h/d",
        "a key is in the stderr of python",
        "a key is in descriptor 1 of python",
    ):
        assert sentence in report
    assert "rv_made" not in report


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_log_in_a_test_s_folder_fails_the_session(folder: Path, options: list[str]) -> None:
    status, said = session(folder, FILE, *options)
    assert status == 1
    assert "1 passed" in said
    assert "engine.log: pla***" in said
