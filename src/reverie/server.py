"""The life of the server process: listen, say so, drain, stop.

The first SIGTERM or Ctrl-C drains: readiness goes off, new generations are refused, running ones
finish or are cut at ``drain_timeout``. The second one cuts them at once. Either way the engines
are stopped, and the exit status is 0.

SIGHUP reloads the configuration; from a terminal that was closed it drains. Before the server is
up, a signal to end ends the start, and SIGHUP is obeyed later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn

from reverie.app import Application
from reverie.errors import ConfigurationError, Overloaded
from reverie.http.connection.protocol import as_http_class
from reverie.log import fields
from reverie.sighup import Hangup, note_hangups

logger = logging.getLogger("reverie")

_ENDING = (signal.SIGINT, signal.SIGTERM)
_FORCED_GRACE = 2.0
"""Seconds for which cut requests may still write their last chunk."""
_EXIT_PATIENCE = 2.0
"""Seconds for threads to end when everything is stopped. One may be stuck on a dead disk."""


def ignore_signals() -> None:
    """Let no further signal change the exit status of a process that has nothing left to do."""
    for sig in (*_ENDING, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)


def exit_soon() -> None:
    """End the process, as a success, even if a thread hangs that its end would wait for."""
    timer = threading.Timer(_EXIT_PATIENCE, os._exit, (0,))
    timer.daemon = True
    timer.start()


def listen(host: str, port: int) -> socket.socket:
    """Take the address, before anything costly is started.

    Raises:
        ConfigurationError: it can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            [f"server.port: can't listen on {host} port {port}: {error.strerror or error}"]
        ) from None
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn, with our drain before its shutdown."""

    def __init__(self, app: Application, *, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=as_http_class(),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(_FORCED_GRACE),
            )
        )
        self._app = app
        self.failure: str | None = None
        """Why it stopped by itself, for the operator."""
        self._on_ready = on_ready
        self._hangup: Hangup | None = None
        self._up = False
        self._reload_when_up = False
        self._reloading: set[asyncio.Task[None]] = set()
        self._signalled = asyncio.Event()
        self._forced = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def take_signals(self) -> None:
        """Obey signals from now on, to the end of the process."""
        self._loop = asyncio.get_running_loop()
        for sig in _ENDING:
            signal.signal(sig, self.handle_exit)
        self._hangup = note_hangups()
        signal.signal(signal.SIGHUP, self._handle_hangup)
        if self._hangup.noted:
            self._obey_hangup()

    async def start(self) -> bool:
        """Start the application. False: a signal came first, and it is to be stopped.

        Raises:
            ConfigurationError, ModelError: as ``Application.start``.
        """
        starting = asyncio.create_task(self._app.start())
        signalled = asyncio.create_task(self._signalled.wait())
        try:
            await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                return True
            return False
        finally:
            signalled.cancel()
            starting.cancel()
            await asyncio.wait({starting}, timeout=_FORCED_GRACE)

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal, through the drain, until everything is stopped."""
        self._up = True
        if self._reload_when_up:
            self._begin_to_reload()
        announcing = asyncio.create_task(self._announce())
        draining = asyncio.create_task(self._drain_when_signalled())
        try:
            await self.serve(sockets=[listener])
        finally:
            announcing.cancel()
            draining.cancel()
            await asyncio.gather(announcing, draining, return_exceptions=True)
            await self._app.stop()
        logger.info("stopped")

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's own way to take them, which raises them again: a drain is a success here."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stop)

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        self._obey_hangup()

    def _obey_hangup(self) -> None:
        assert self._loop is not None
        assert self._hangup is not None
        then = self.stop if self._hangup.is_the_end else self._begin_to_reload
        self._loop.call_soon_threadsafe(then)

    def _begin_to_reload(self) -> None:
        if not self._up:
            self._reload_when_up = True
            return
        task = asyncio.create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        try:
            await self._app.reload()
        except (ConfigurationError, Overloaded):
            pass  # the log has it
        except Exception:
            logger.exception("reload failed")

    def stop(self) -> None:
        """Begin to drain; called again, cut what still runs."""
        if self._signalled.is_set():
            self._forced.set()
        self._signalled.set()

    async def _announce(self) -> None:
        """Say when the default model answers; give up when no model ever will."""
        if await self._app.registry.wait_settled():
            self._on_ready()
            return
        failures = [model.pool.failure for model in self._app.models.all]
        self.failure = "\n".join(filter(None, failures))
        self.should_exit = True

    async def _drain_when_signalled(self) -> None:
        await self._signalled.wait()
        in_flight = self._app.in_flight
        in_flight.draining = True
        limit = self._app.settings.server.drain_timeout
        logger.info("draining", extra=fields(in_flight=len(in_flight), timeout_s=limit))
        idle = asyncio.create_task(in_flight.wait_idle())
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait({idle, forced}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        forced.cancel()
        if len(in_flight):
            logger.warning("cutting what still runs", extra=fields(in_flight=len(in_flight)))
            self._app.end_requests(Overloaded("This server is shutting down.", retry_after=1))
        await self._app.end_reloads()  # their callers still hear of it
        self.should_exit = True
