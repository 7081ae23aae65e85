"""The life of the server process: listen, say so, drain, stop.

The first SIGTERM or Ctrl-C drains: readiness goes off, new generations are refused, running ones
finish or are cut at ``drain_timeout``. The second one cuts them at once. Either way the engines
are stopped, and the exit status is 0.

SIGHUP reloads the configuration; from a terminal that was closed it drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn

from reverie.app import Application
from reverie.errors import ConfigurationError, Overloaded
from reverie.http.protocol import as_http_class
from reverie.log import fields

logger = logging.getLogger("reverie")

_ENDING = (signal.SIGINT, signal.SIGTERM)
_FORCED_GRACE = 2.0
"""Seconds for which cut requests may still write their last chunk."""


def ignore_signals() -> None:
    """Let no further signal change the exit status of a process that has nothing left to do."""
    for sig in (*_ENDING, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)


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
        self._ends_with_terminal = False
        self._reloading: set[asyncio.Task[None]] = set()
        self._signalled = asyncio.Event()
        self._forced = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal, through the drain, until everything is stopped."""
        self._loop = asyncio.get_running_loop()
        with self._signals_taken():
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
        """uvicorn's own way to take them, which ends before everything is stopped."""
        yield

    @contextlib.contextmanager
    def _signals_taken(self) -> Generator[None, None, None]:
        """Take the signals, without raising them again at the end: a drain is a success."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _ENDING}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._handle_hangup)
        # Under nohup it is to outlive its terminal.
        self._ends_with_terminal = before[signal.SIGHUP] != signal.SIG_IGN and _has_terminal()
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stop)

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        if self._ends_with_terminal and not _has_terminal():
            self._loop.call_soon_threadsafe(self.stop)
        else:
            self._loop.call_soon_threadsafe(self._begin_to_reload)

    def _begin_to_reload(self) -> None:
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
        if await self._app.house.wait_settled():
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


def _has_terminal() -> bool:
    """Whether the terminal that this process was started from is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
