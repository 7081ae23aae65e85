"""``reverie serve`` as a user starts it: a process of its own, with the real default model."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

REVERIE = str(Path(sys.executable).with_name("reverie"))
KEY = "contract-key-one"


class Served(NamedTuple):
    """A running ``reverie serve``."""

    url: str
    process: subprocess.Popen[str]
    printed: str
    """What it has printed on standard output once it was ready."""
    errors: list[str]
    """The lines on standard error so far; all of them, once it has ended."""


@contextmanager
def reverie_serve(*arguments: str, cwd: Path, **environ: str) -> Iterator[Served]:
    """Start the command on a free port, and stop it as Ctrl-C does."""
    process = subprocess.Popen(
        [REVERIE, "serve", "--port", "0", *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "REVERIE_API_KEYS": "",
            "XDG_STATE_HOME": str(cwd / "state"),  # and with it the default store
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_forward, args=(process.stdout, lines.put)),
        threading.Thread(target=errors.extend, args=(process.stderr,)),
    ]
    for reader in readers:
        reader.start()
    try:
        printed = ""
        while "Stop: Ctrl-C" not in printed:
            line = lines.get(timeout=60)
            if line is None:
                pytest.fail("reverie serve ended before it was ready:\n" + "".join(errors))
            printed += line
        url = printed.split(" at ", 1)[1].split()[0]
        yield Served(url, process, printed, errors)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        finally:
            process.kill()
            for reader in readers:
                reader.join()
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stderr.close()
    stderr = "".join(errors)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr, stderr


def _forward(stream: object, put: object) -> None:
    for line in stream:  # type: ignore[attr-defined]
        put(line)  # type: ignore[operator]
    put(None)  # type: ignore[operator]


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Served]]:
    """``with serve("--port", …, cwd=…) as running``: the command, with other options."""
    return reverie_serve


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The default model, for anyone on this machine."""
    with reverie_serve(cwd=tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The default model, for those with a key."""
    folder = tmp_path_factory.mktemp("keyed")
    with reverie_serve(cwd=folder, REVERIE_API_KEYS=f"{KEY},another") as running:
        yield running
