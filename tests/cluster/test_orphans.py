"""An actor's process ends with the raylet that started it, and its engine with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ACTOR = """
import os, subprocess, sys, time
from reverie.cluster.orphans import die_with
from reverie.runner.guard import die_with_parent
die_with(int(sys.argv[1]))
me = os.getpid()
engine = subprocess.Popen([sys.executable, "-c", f'''
from reverie.runner.guard import die_with_parent
die_with_parent({me})
import signal
print(flush=True)
signal.pause()
'''], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
engine.stdout.readline()
print(me, engine.pid, flush=True)
while True:
    sum(range(10**5))  # it is busy, too
"""
RAYLET = f"""
import os, subprocess, sys
actor = subprocess.Popen([sys.executable, "-c", {ACTOR!r}, str(os.getpid())])
actor.wait()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_parent_takes_all_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", RAYLET], stdout=subprocess.PIPE) as raylet:
        assert raylet.stdout is not None
        actor, engine = map(int, raylet.stdout.readline().split())
        time.sleep(0.5)
        assert alive(actor)  # it doesn't end by itself
        assert alive(engine)
        os.kill(raylet.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while alive(actor) or alive(engine):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    code = "import time; from reverie.cluster.orphans import die_with; die_with(1); time.sleep(20)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=15)
    assert done.returncode == 1
