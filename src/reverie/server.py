"""The life of the server process: listen, announce, drain, stop.

The first SIGTERM or Ctrl-C drains: readiness goes off, new generations are refused, running ones
finish or are cut at ``drain_timeout``. The second one cuts them at once. Either way the engines
are stopped, and the exit status is 0.

SIGHUP reloads the configuration. It also comes when the terminal is closed that the server was
started from; then the server drains. Before the server is up, SIGTERM and Ctrl-C end the start, and
SIGHUP waits until it is up.

A socket that the service manager keeps (``systemd.py``) outlives this process, and so do the
connections that wait in it. So a drain accepts no more of them: they are for whoever is started
next. Requests on those that were accepted are answered, each with the end of its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import uvicorn

from reverie import background
from reverie.addresses import OLLAMA_HOST, OLLAMA_PORT
from reverie.app import Application
from reverie.background import Loop
from reverie.errors import ConfigurationError, Overloaded, ServerStopped
from reverie.http.access_log import access_log
from reverie.http.connection.protocol import as_http_class
from reverie.log import fields
from reverie.systemd import SILENT, Notifier

logger = logging.getLogger("reverie")

_ENDING = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048
"""Connections that may wait to be accepted."""
_FORCED_GRACE = 2.0
"""Seconds in which requests that were cut may write their last chunk."""
_RETIRE_GRACE = 1.0
"""Seconds that connections have for a next request, once no new ones are accepted."""
_FIRST_GRACE = 5.0
"""Seconds that those have for it that brought none yet: it is on its way."""
_TICK = 1.0
"""Seconds between two dates in the headers of answers."""
_POLL = 0.01
"""Seconds between two looks whether the connections have closed."""
_EXIT_PATIENCE = 2.0
"""Seconds for threads to end once everything is stopped. One may be stuck on a dead disk."""


def ignore_signals() -> None:
    """Keep further signals from changing the exit status of a process that is done."""
    for sig in (*_ENDING, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)


def exit_soon() -> None:
    """Exit with status 0 within ``_EXIT_PATIENCE``, even if a thread hangs."""
    timer = threading.Timer(_EXIT_PATIENCE, os._exit, (0,))
    timer.daemon = True
    timer.start()


_ADVICE = {
    errno.EADDRINUSE: "end what listens there, or choose another port (--port, REVERIE_PORT)",
    errno.EACCES: "ports below 1024 are the administrator's: choose another (--port, REVERIE_PORT)",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another (--host, REVERIE_HOST)",
}


def listen_as_ollama() -> socket.socket:
    """Listen where Ollama's clients look for it, on this machine alone.

    Raises:
        ConfigurationError: the port is taken, as by Ollama itself.
    """
    advice = "end what listens there, or set server.ollama, which needs no port of its own"
    return listen(OLLAMA_HOST, OLLAMA_PORT, asked_by="--ollama", advice=advice)


def listen(
    host: str,
    port: int,
    *,
    asked_by: str = "server.port",
    advice: str | None = None,
    shared: bool = False,
) -> socket.socket:
    """Listen on the address, before anything costly is started.

    Args:
        asked_by: the setting or option that the error names.
        advice: what to do about the error; default: by its kind.
        shared: other sockets of this user may listen there, too.

    Raises:
        ConfigurationError: the address can't be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        advice = advice or _ADVICE.get(error.errno or 0, "check server.host and server.port")
        reason = error.strerror or error
        raise ConfigurationError(
            [f"{asked_by}: can't listen on {host} port {port}: {reason}; {advice}"]
        ) from None
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn, with our drain before its shutdown.

    Args:
        on_ready: called once the default model can answer.
        terminal_closed: tells on SIGHUP whether it means the end rather than a reload.
        notifier: tells the service manager.
        hands_on: its sockets outlive it, for another process to serve on.
    """

    def __init__(
        self,
        app: Application,
        *,
        on_ready: Callable[[], None],
        terminal_closed: Callable[[], bool] = lambda: False,
        notifier: Notifier = SILENT,
        hands_on: bool = False,
    ) -> None:
        self._access_log = access_log(app, app.settings.server)
        super().__init__(
            uvicorn.Config(
                self._access_log or app,
                http=as_http_class(),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,
            )
        )
        self._app = app
        self.failure: str | None = None
        """Why the server stopped by itself, for the operator."""
        self._on_ready = on_ready
        self._terminal_closed = terminal_closed
        self._notifier = notifier
        self._hands_on = hands_on
        self._reloading: set[asyncio.Task[None]] = set()
        self._signalled = asyncio.Event()
        self._forced = asyncio.Event()
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def take_signals(self) -> None:
        """Obey SIGTERM and Ctrl-C from now on, and SIGHUP once the server is up."""
        self._loop = asyncio.get_running_loop()
        for sig in _ENDING:
            signal.signal(sig, self.handle_exit)
        signal.signal(signal.SIGHUP, self._handle_sighup)

    async def start(self) -> bool:
        """Start the application. False: a signal came first, and the caller is to stop it.

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

    async def run_on(self, *listeners: socket.socket) -> None:
        """Serve until a signal; then drain, and stop everything."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        announcing = background.once("start", self._announce)
        watching = Loop("service watchdog", self._notifier.watch)
        draining = background.once("drain", self._drain_when_signalled)
        try:
            await self.serve(sockets=list(listeners))
        finally:
            announcing.cancel()
            draining.cancel()
            await asyncio.gather(announcing, draining, return_exceptions=True)
            await self._app.stop()
            await watching.stop()
            if self._access_log is not None:
                self._access_log.close()
        logger.info("stopped")

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them again, but a drain is a success here."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stop)

    def _handle_sighup(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        then = self.stop if self._terminal_closed() else self._begin_to_reload
        self._loop.call_soon_threadsafe(then)

    def _begin_to_reload(self) -> None:
        task = background.once("reload", self._reload)
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def main_loop(self) -> None:
        """Renew the date in each answer's header until the end, which doesn't wait for a tick."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, once those who watch the server or reload it are answered.

        What uvicorn does, less its sleeps.
        """
        await self._app.end_admin()
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        state = self.server_state
        told: set[Any] = set()
        try:
            async with asyncio.timeout(_FORCED_GRACE):
                while state.connections or state.tasks:
                    for connection in state.connections - told:
                        told.add(connection)
                        connection.shutdown()
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            logger.warning("some requests didn't end", extra=fields(in_flight=len(state.tasks)))
            for task in state.tasks:
                task.cancel()

    async def _reload(self) -> None:
        told = contextlib.suppress(ConfigurationError, Overloaded)  # logged already
        with self._notifier.reloading(), told:
            await self._app.reload()

    def stop(self) -> None:
        """Begin to drain; when called again, cut the requests that still run."""
        if self._signalled.is_set():
            self._forced.set()
        self._signalled.set()

    async def _announce(self) -> None:
        """Report that the default model can answer, or stop if no model ever will."""
        if await self._app.registry.wait_settled():
            self._notifier.ready()
            self._on_ready()
            return
        failures = [model.pool.failure for model in self._app.models.all]
        self.failure = "\n".join(filter(None, failures))
        self._end()

    async def _drain_when_signalled(self) -> None:
        await self._signalled.wait()
        try:
            await self._drain()
        finally:
            self._end()

    def _end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def _retire_connections(self) -> None:
        """Accept none any more, and end each with the answer to its next request, or soon."""
        for listening in self.servers:
            listening.close()
        connections = self.server_state.connections
        for connection in list(connections):
            connection.retire()  # type: ignore[union-attr]
        began = asyncio.get_running_loop().time()
        while idle := [one for one in connections if one.is_idle]:  # type: ignore[union-attr]
            waited = asyncio.get_running_loop().time() - began
            if self._forced.is_set() or waited > _FIRST_GRACE:
                break
            for one in idle if waited > _RETIRE_GRACE else ():
                if not one.is_fresh:  # type: ignore[union-attr]
                    one.shutdown()
            await asyncio.sleep(_POLL)
        for connection in list(connections):
            connection.shutdown()

    async def _drain(self) -> None:
        self._notifier.stopping()
        in_flight = self._app.in_flight
        limit = self._app.settings.server.drain_timeout
        if self._hands_on:
            await self._retire_connections()
        else:
            in_flight.draining = True
        logger.info("draining", extra=fields(in_flight=len(in_flight), timeout_s=limit))
        idle = asyncio.create_task(self._wait_idle())
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait({idle, forced}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        forced.cancel()
        in_flight.draining = True
        if len(in_flight):
            logger.warning("cutting what still runs", extra=fields(in_flight=len(in_flight)))
            self._app.end_requests(ServerStopped())

    async def _wait_idle(self) -> None:
        """Wait until nothing is generated, nor, where none is refused, about to be."""
        if self._hands_on:
            await self._app.end_admin()  # who only watches
            while tasks := set(self.server_state.tasks):
                await asyncio.wait(tasks)
        await self._app.in_flight.wait_idle()
