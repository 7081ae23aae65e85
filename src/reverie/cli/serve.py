"""``reverie serve``: the server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
import uvloop

import reverie
from reverie import log
from reverie.addresses import OLLAMA_HOST, OLLAMA_PORT, is_loopback
from reverie.cli.options import (
    AiModels,
    Config,
    Host,
    Model,
    NoAuth,
    Ollama,
    Port,
    Workers,
    settings_of,
)
from reverie.cli.stores import left_behind, whereabouts
from reverie.errors import ModelError
from reverie.memory import prepare_memory, settle_garbage
from reverie.settings import CONFIG_FILE, Settings
from reverie.systemd import Notifier, host_and_port, most_public, take_sockets
from reverie.text import in_url

if TYPE_CHECKING:
    from reverie.workers.messages import Ready

logger = logging.getLogger("reverie")


def serve(
    host: Host = None,
    port: Port = None,
    config: Config = None,
    model: Model = None,
    no_auth: NoAuth = None,
    ai_models: AiModels = None,
    ollama: Ollama = None,
    workers: Workers = None,
) -> None:
    """Serve text generation: POST /llm and OpenAI's /v1/chat/completions.

    Without a configuration it serves the default model to this machine, on 127.0.0.1:8000. The
    model is fetched at the first start. Set REVERIE_API_KEYS to let others call.
    """
    began = time.monotonic()
    notifier = Notifier(os.environ)
    handed = take_sockets(os.environ)
    if handed:
        host, port = most_public(handed, is_loopback)
    terminal_closed = _watch_terminal()
    if config is None and Path(CONFIG_FILE).exists():
        config = Path(CONFIG_FILE)  # so that a reload fails once it is gone
    read = functools.partial(
        settings_of, host, port, config, model, no_auth, ai_models, ollama, workers
    )
    remarks: list[str] = []
    settings = read(remark=remarks.append)
    log.configure(settings.server.log_level, settings.server.log_format)
    for sentence in remarks:
        _log_remark(sentence)
    if old := left_behind(settings.store):
        logger.warning("a store isn't used", extra=log.fields(remark=old))
    read_again = functools.partial(read, remark=_log_remark, is_reload=True)
    if missing_models(settings):
        # Or it would be told after a long download only.
        _require_ports(settings, handed, ollama=bool(ollama))
        fetch_missing(settings)
    with (
        contextlib.suppress(KeyboardInterrupt),  # of Ctrl-C before the server handles signals
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        serving = _serve_with_workers if settings.server.workers > 1 else _serve
        runner.run(
            serving(
                settings,
                read_again,
                terminal_closed,
                began,
                notifier,
                handed,
                ollama=bool(ollama),
            )
        )


def _watch_terminal() -> Callable[[], bool]:
    """A function that is True once the terminal is closed that the server is to end with.

    Under ``nohup`` it outlives its terminal.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN or not _has_terminal():
        return lambda: False
    return lambda: not _has_terminal()


def _has_terminal() -> bool:
    """True while the terminal that the process was started from is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _log_remark(sentence: str) -> None:
    logger.warning("part of --ai-models has no effect", extra=log.fields(remark=sentence))


def missing_models(settings: Settings) -> list[str]:
    """References to the models that run here and aren't on disk."""
    from reverie.models.store import find

    sources = [one.source for one in settings.models if one.source is not None and not one.engines]
    return [source for source in sources if find(source) is None]


def fetch_missing(settings: Settings) -> None:
    """Fetch the models that run here and aren't on disk, with a progress bar."""
    from reverie.models.store import fetch

    for source in missing_models(settings):
        fetch(source)


def _require_ports(settings: Settings, handed: Sequence[socket.socket], *, ollama: bool) -> None:
    """Find out whether the ports are free that the server will listen on.

    Raises:
        ConfigurationError: one of them isn't.
    """
    from reverie.server import listen, listen_as_ollama

    if not handed:
        listen(settings.server.host, settings.server.port).close()
    if ollama:
        listen_as_ollama().close()


async def _serve(
    settings: Settings,
    read: Callable[[], Settings],
    terminal_closed: Callable[[], bool],
    began: float,
    notifier: Notifier,
    handed: Sequence[socket.socket],
    *,
    ollama: bool,
) -> None:
    prepare_memory()
    # Imported here so that the other verbs and --help don't wait for the web framework.
    from reverie.app import Application
    from reverie.server import (
        Server,
        exit_soon,
        ignore_signals,
        listen,
        listen_as_ollama,
    )
    from reverie.workers.messages import Ready

    def on_ready() -> None:
        served = Ready.of(app.models, keyless=app.keyless)
        accounts, seconds = whereabouts(app.settings.store), time.monotonic() - began
        typer.echo(_welcome(served, accounts, address[0], address[1], seconds, ollama=ollama))

    app = Application(settings, read_settings=read)
    server = Server(
        app,
        on_ready=on_ready,
        terminal_closed=terminal_closed,
        notifier=notifier,
        hands_on=bool(handed),
    )
    server.take_signals()
    listeners = [*handed] or [listen(settings.server.host, settings.server.port)]
    address = host_and_port(listeners[0])
    try:
        if ollama and address[1] != OLLAMA_PORT:
            listeners.append(listen_as_ollama())
        if await server.start():
            logger.info(
                "listening",
                extra=log.fields(version=reverie.__version__, host=address[0], port=address[1]),
            )
            settle_garbage()
            await server.run_on(*listeners)
    finally:
        for listener in listeners:
            listener.close()
        await app.stop()
        ignore_signals()
    if server.failure is not None:
        raise ModelError(server.failure)
    exit_soon()


async def _serve_with_workers(
    settings: Settings,
    read: Callable[[], Settings],
    terminal_closed: Callable[[], bool],
    began: float,
    notifier: Notifier,
    handed: Sequence[socket.socket],
    *,
    ollama: bool,
) -> None:
    from reverie.server import exit_soon, ignore_signals
    from reverie.workers.listening import addresses
    from reverie.workers.parent import Parent

    def on_ready(served: Ready) -> None:
        accounts, seconds = whereabouts(settings.store), time.monotonic() - began
        host, port = where[0].host, where[0].port
        typer.echo(_welcome(served, accounts, host, port, seconds, ollama=ollama))

    where = addresses(settings.server.host, settings.server.port, handed, ollama=ollama)
    parent = None
    try:
        parent = Parent(settings, read, where, on_ready=on_ready, notifier=notifier)
        await parent.run(terminal_closed)
    finally:
        if parent is not None:
            await parent.stop()
        for address in where:
            address.close()
        ignore_signals()
    if parent.failure is not None:
        raise ModelError(parent.failure)
    exit_soon()


def _command() -> str:
    """How this program is called from the directory in which it was started."""
    program = Path(sys.argv[0])
    if program.name != "reverie":
        return f"{sys.executable} -m reverie"
    found = shutil.which("reverie")
    if found is not None and os.path.realpath(found) == os.path.realpath(program):
        return "reverie"
    return os.path.abspath(program)


def _welcome(
    served: Ready, accounts: str, host: str, port: int, seconds: float, *, ollama: bool
) -> str:
    """What is served, where things are, and a request to paste, whose key is a placeholder."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    base = f"http://{in_url(host)}:{port}"
    curl = "curl"
    if host.startswith(("/", "@")):  # a Unix socket's path
        base = "http://localhost"
        curl += f" --{'abstract-' if host[0] == '@' else ''}unix-socket {host.removeprefix('@')}"
    down = ", ".join(served.down)
    warning = f"\nNo backend of {down} can be reached now: see {base}/health\n" if down else ""
    key = "" if served.keyless else "  -H 'Authorization: Bearer YOUR_KEY' \\\n"
    ollamas = f"Ollama's API: http://{OLLAMA_HOST}:{OLLAMA_PORT}\n" if ollama else ""
    return f"""
Reverie is ready after {seconds:.1f} s: {served.default} at {base}

Models:   {", ".join(served.models)}
Accounts: {accounts}
Command:  {_command()} --help
{warning}
Try it:
{curl} {base}/llm \\
{key}  -H 'Content-Type: application/json' \\
  -d '{{"messages": [{{"role": "user", "content": "Say hello."}}], "stream": true}}' -N

{ollamas}Chat: {base}   The API: {base}/docs   Stop: Ctrl-C
"""
