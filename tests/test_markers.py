"""No test forgets its mark: one that starts what its marks don't say fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

TESTS = """
import multiprocessing, socket, subprocess, sys
import pytest

def process(*arguments):
    subprocess.run([sys.executable, "-c", "", *arguments], check=True)

def listen():
    socket.create_server(("127.0.0.1", 0)).close()

def test_process():
    process()

def test_fork():
    multiprocessing.get_context("spawn").Process(target=print).start()

def test_listen():
    listen()

def test_swallowed():
    with pytest.raises(BaseException):
        process()

@pytest.mark.integration
def test_engine():
    process("reverie.runner.child")

@pytest.mark.integration
def test_embedded():
    process("reverie.runner.child", '{"engine": "xllamacpp", "slots": 1}')

@pytest.mark.integration
def test_program():
    process("reverie.runner.child", '{"engine": "/tmp/llama-server", "slots": 1}')

@pytest.mark.integration
def test_marked_process():
    process()

@pytest.mark.postgres
def test_marked_listen():
    listen()

@pytest.mark.browser
def test_marked_browser():
    process()

@pytest.mark.real
def test_marked_engine():
    process("reverie.runner.child")
    listen()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What pytest says of these tests, a line each: the outcome, the name, why it failed."""
    folder = tmp_path_factory.mktemp("marked")
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "tests.markers", f"--rootdir={folder}"]
    done = subprocess.run(
        [*command, str(folder)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return re.sub(r" \S*test_it\.py::", " ", done.stdout).splitlines()


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("process", "FAILED", "`pytest.mark.integration` may start a process"),
        ("fork", "FAILED", "`pytest.mark.integration` may start a process"),
        ("listen", "FAILED", "`pytest.mark.integration` may listen on a socket"),
        ("swallowed", "ERROR", "`pytest.mark.integration` may start a process"),
        ("engine", "FAILED", "`pytest.mark.real` may start the embedded engine"),
        ("embedded", "FAILED", "`pytest.mark.real` may start the embedded engine"),
    ],
)
def test_what_a_test_starts_without_the_mark_fails_it(
    report: list[str], name: str, outcome: str, reason: str
) -> None:
    line = f"{outcome} test_{name} - Failed: only a test with {reason}"
    assert line in report


@pytest.mark.parametrize(
    "name", ["program", "marked_process", "marked_listen", "marked_browser", "marked_engine"]
)
def test_with_its_mark_it_is_started(report: list[str], name: str) -> None:
    assert f"PASSED test_{name}" in report
    assert not any(line.startswith(f"ERROR test_{name}") for line in report)
