"""The server that ``run`` and ``chat`` ask: one that answers, or one of their own until they end.

Their own is ``reverie serve`` in a child process, on a free port of this machine, without a store.
Its key is made for it, so that nobody else is served. It is stopped at the end, also by Ctrl-C,
SIGTERM and a closed terminal, and dies with this process if that is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

import typer

from reverie.cli.connection import DEFAULT_URL, Connection, key_from

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_READY = re.compile(r"^Reverie is ready .* at (http://\S+)$")
_STOP_PATIENCE = 5.0
"""Seconds from a signal to stop until the next, harder one."""
_CHILD = (
    "import sys; from reverie.runner.guard import die_with_parent; "
    "die_with_parent(int(sys.argv.pop(1))); from reverie.cli import main; main()"
)
_NOT_INHERITED = frozenset(
    f"REVERIE_{name}" for name in ("HOST", "PORT", "MODEL", "OLLAMA", "AI_MODELS", "NO_AUTH")
)


class Found(NamedTuple):
    """A server, and what it calls the model that is wanted; None: its default."""

    connection: Connection
    model: str | None


@contextmanager
def server(url: str | None, model: str | None) -> Generator[Found, None, None]:
    """The server at ``url``. If none is named and none answers at the usual place, an own one.

    Args:
        model: what will be asked for: a name in the configuration, or a reference to a model.

    Raises:
        CallFailed: the key can't be sent.
        ConfigurationError, ModelError: the own server can't start.
    """
    connection = Connection(url or DEFAULT_URL, key_from())
    if url is not None or connection.accepts():
        with _ended_by_signals():  # so that an answer is ended on the server, too
            yield Found(connection, model)
        return
    typer.echo(f"No server answers at {DEFAULT_URL}: starting one until this ends …", err=True)
    arguments, name = _prepare(model)
    key = secrets.token_urlsafe(32)
    with _ended_by_signals(), tempfile.TemporaryFile() as log, _child(arguments, key, log) as child:
        address = _wait_until_ready(child)
        if address is None:
            raise _failure(log)
        yield Found(Connection(address, key, patience=0), name)


def _prepare(model: str | None) -> tuple[list[str], str | None]:
    """The options of ``serve``, and what it will call the model.

    What it would have to fetch is fetched now, where it shows.
    """
    from reverie.cli.options import settings_of
    from reverie.cli.serve import fetch_missing

    config = os.environ.get("REVERIE_CONFIG")
    file = Path(config) if config else None
    settings = settings_of(None, None, file, None, None)
    names = {name for one in settings.models for name in (one.name, *one.aliases)}
    if model is None or model in names:
        fetch_missing(settings)
        return [], model
    settings = settings_of(None, None, file, model, None)
    fetch_missing(settings)
    return ["--model", model], settings.default_model.name


@contextmanager
def _child(
    arguments: list[str], key: str, log: IO[bytes]
) -> Generator[subprocess.Popen[str], None, None]:
    """The process, in a group of its own, so that the terminal's Ctrl-C doesn't reach it."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    environ |= {
        "REVERIE_API_KEYS": key,
        "REVERIE_STORE_URL": "none",
        "REVERIE_SERVER_LOG_LEVEL": "error",
    }
    serve = ["serve", "--host", "127.0.0.1", "--port", "0", "--workers", "1", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), *serve],
        env=environ,
        stdin=subprocess.PIPE,  # ends with this process, for the guard
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        _stop(process)


def _wait_until_ready(child: subprocess.Popen[str]) -> str | None:
    """Where it listens, once it can answer; None if it ends before that."""
    assert child.stdout is not None
    for line in child.stdout:
        if match := _READY.match(line.rstrip()):
            return match[1]
    return None


def _failure(log: IO[bytes]) -> Exception:
    """What the process said before it ended."""
    from reverie.errors import ConfigurationError

    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return ConfigurationError(said or ["The engine did not start: run reverie serve to see why."])


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop it in order, and by force if it takes too long. No signal interrupts this."""
    with _ignoring(signal.SIGINT, *_ENDING):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_PATIENCE)
                break
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def _ended_by_signals() -> Generator[None, None, None]:
    """Let the signals that end a process do so by ``SystemExit``, so that everything is stopped."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handling(end, *_ENDING):
        yield


@contextmanager
def _ignoring(*numbers: signal.Signals) -> Generator[None, None, None]:
    with _handling(signal.SIG_IGN, *numbers):
        yield


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Generator[None, None, None]:
    """Handle signals so for a while; those that this process ignores stay ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, was in before.items():
            if was != signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
