from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from reverie.runner import logfile
from reverie.runner.logfile import LogFile


def _write(log: LogFile, text: str) -> None:
    with log.open() as file:
        file.write(text.encode())


def test_the_previous_log_is_kept() -> None:
    for text in ("first\n", "second\n"):
        log = LogFile("org/model: 1")
        log.rotate()
        _write(log, text)
        log.release()
    assert log.path.name == "org-model-1.log"
    assert log.path.read_text() == "second\n"
    assert log.path.with_name("org-model-1.log.1").read_text() == "first\n"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_the_tail_is_of_the_latest_engine() -> None:
    log = LogFile("m")
    log.rotate()
    assert log.tail() == []
    _write(log, "before\n")
    _write(log, "".join(f"line {n}\n" for n in range(50)))
    assert log.tail(3) == ["line 47", "line 48", "line 49"]
    _write(log, "now\n")
    assert log.tail() == ["now"]
    assert log.path.read_text().startswith("before\n")
    log.release()


def test_a_log_that_grows_is_cut_under_its_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 100)
    log = LogFile("m")
    log.rotate()
    with log.open() as file:
        file.write(b"x" * 99 + b"\n")
        log.trim()
        assert log.path.stat().st_size == 100
        file.write(b"y\n")
        log.trim()
        file.write(b"z\n")
    assert log.path.read_text() == "z\n"
    assert log.tail() == ["z"]
    previous = log.path.with_name("m.log.1")
    assert previous.read_text() == "x" * 99 + "\ny\n"
    assert stat.S_IMODE(previous.stat().st_mode) == 0o600
    log.release()


def test_a_log_that_another_server_holds_is_left_alone() -> None:
    logs = [LogFile("m") for _ in range(3)]
    for number, log in enumerate(logs):
        log.rotate()
        _write(log, f"engine {number}\n")
    logs[1].rotate()  # its own one it may rotate
    assert [log.path.name for log in logs] == ["m.log", "m-2.log", "m-3.log"]
    assert logs[0].tail() == ["engine 0"]
    assert logs[2].tail() == ["engine 2"]
    assert logs[1].path.with_name("m-2.log.1").read_text() == "engine 1\n"

    for log in logs:
        log.release()
        log.release()
    later = LogFile("m")
    later.rotate()
    assert later.path.name == "m.log"
    assert later.path.with_name("m.log.1").read_text() == "engine 0\n"
    later.release()


@pytest.mark.integration
def test_a_log_is_free_again_when_its_server_was_killed() -> None:
    code = "import sys, time; from reverie.runner.logfile import LogFile; log = LogFile('m')"
    code += "; log.rotate(); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"held\n"
        second = LogFile("m")
        second.rotate()
        server.kill()
    third = LogFile("m")
    third.rotate()
    assert (second.path.name, third.path.name) == ("m-2.log", "m.log")
    second.release()
    third.release()
