from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_WATCHED = """
import time
from reverie.runner.guard import watch_standard_input
watch_standard_input()
print(flush=True)
time.sleep(600)
"""


def test_a_process_is_killed_when_its_standard_input_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WATCHED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == -9


def test_a_process_that_was_reparented_ends_at_once() -> None:
    code = "from reverie.runner.guard import die_with_parent; die_with_parent(1 << 22)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
