"""Measures the seconds from ``git clone`` to the first answer on a machine with nothing installed.

What is committed is cloned into a new folder, with a home of its own, no ``.venv``, no model and
pip's cache off. The steps are those of ``make serve``, one by one. Run it with
``make bench-first-minutes``; it needs the network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parent.parent
MODEL = "smollm2-135m"
VENV = ".venv"


def environment(home: Path) -> dict[str, str]:
    """Variables as a new user has them."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REVERIE_", "XDG_", "VIRTUAL_ENV", "PYTHON", "MAKE"))
    }
    return {**kept, "HOME": str(home), "PIP_NO_CACHE_DIR": "1"}


class Steps:
    """What each step took, in seconds."""

    def __init__(self) -> None:
        self.took: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"{name} …", file=sys.stderr)
        began = time.perf_counter()
        yield
        self.took.append((name, time.perf_counter() - began))


@contextlib.contextmanager
def serving(clone: Path, env: dict[str, str], port: int) -> Iterator[None]:
    """``make serve``, from when it says that it is ready."""
    process = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=clone,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        if not any("Reverie is ready" in line for line in process.stdout):
            raise RuntimeError("make serve ended before it was ready")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def ask_for_a_token(port: int) -> None:
    """The README's request, as a stream, up to its first token."""
    body = {
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 32,
        "stream": True,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/llm",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            if line.startswith(b"data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                if delta.get("content"):
                    return
    raise RuntimeError("no token came")


def measure(folder: Path, python: str) -> Steps:
    home, clone = folder / "home", folder / "reverie"
    home.mkdir()
    env = environment(home)
    steps = Steps()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def run(*command: str, cwd: Path = folder) -> None:
        subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL)

    with steps.step("clone"):
        run("git", "clone", "--quiet", str(REPOSITORY), str(clone))
    with steps.step("set-up"):
        run("make", f"{VENV}/serve.stamp", f"PYTHON={python}", cwd=clone)
    with steps.step("model"):
        run(str(clone / VENV / "bin" / "reverie"), "pull", MODEL, cwd=clone)
    with contextlib.ExitStack() as stack:
        with steps.step("start"):
            stack.enter_context(serving(clone, env, port))
        with steps.step("first token"):
            ask_for_a_token(port)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="python3", help="the Python that the .venv is made of")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-minutes-") as folder:
        took = measure(Path(folder), options.python).took
    table = Table("step", "seconds", title="from git clone to the first token")
    for name, seconds in took:
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("in all", f"{sum(seconds for _, seconds in took):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
