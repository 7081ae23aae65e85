"""A worker's main, ``python -P -m reverie.workers.worker INHERITED``: a whole gateway.

It lives and dies with its parent, which tells it what to serve.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from functools import partial

import msgspec
import uvloop

from reverie import background, log
from reverie.app import Application
from reverie.background import Loop
from reverie.errors import ConfigurationError, ModelError
from reverie.gateway.siblings import Answer
from reverie.memory import prepare_memory, settle_garbage
from reverie.runner.guard import die_with_parent
from reverie.server import Server, exit_soon, ignore_signals
from reverie.workers.channel import Channel
from reverie.workers.messages import Began, Configuration, Draining, Ready, decode, encode
from reverie.workers.process import Inherited
from reverie.workers.remote import WorkerRegistry
from reverie.workers.siblings import WorkerSiblings

logger = logging.getLogger("reverie")


class Worker:
    """One worker.

    Args:
        listeners: what it serves on.
        hands_on: as ``Server`` has it.
    """

    def __init__(self, listeners: list[socket.socket], *, hands_on: bool) -> None:
        self._answers: dict[str, Answer] = {
            "start": self._start,
            "apply": self._apply,
            "draining": self._set_draining,
        }
        self.channel = Channel(
            {
                "share": partial(self._registry_tell, "share"),
                "engine": partial(self._registry_tell, "engine"),
                "drain": lambda _: self.drain(),
            },
            self._answers,
        )
        self.over = asyncio.Event()
        """Set once it has nothing more to do."""
        self._listeners = listeners
        self._hands_on = hands_on
        self._early: list[tuple[str, bytes]] = []
        self._registry: WorkerRegistry | None = None
        self._app: Application | None = None
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def _start(self, body: bytes) -> bytes:
        configuration = decode(body, Configuration)
        settings = configuration.read_settings()
        log.configure(settings.server.log_level, settings.server.log_format)
        try:
            self._registry = WorkerRegistry(configuration, os.environ, self.channel)
            for name, early in self._early:
                self._registry_tell(name, early)
            self._app = Application(
                settings,
                registry=self._registry,
                static=configuration.static_keys,
                siblings=WorkerSiblings(self.channel),
            )
            self._answers.update(self._app.answers)
            self._server = Server(self._app, on_ready=self._ready, hands_on=self._hands_on)
            await self._app.start()
        except ConfigurationError as error:
            return self._refused(Began(list(error.problems)))
        except ModelError as error:
            return self._refused(Began([str(error)], False))
        settle_garbage()
        self._serving = background.once("serving", partial(self._serve, self._app, self._server))
        return encode(Began([]))

    def _refused(self, began: Began) -> bytes:
        asyncio.get_running_loop().call_soon(self.over.set)
        return encode(began)

    async def _serve(self, app: Application, server: Server) -> None:
        try:
            await server.run_on(*self._listeners)
            if server.failure is not None:
                self.channel.tell("failed", encode(server.failure))
        finally:
            self.over.set()

    def _ready(self) -> None:
        assert self._app is not None
        self.channel.tell("ready", encode(Ready.of(self._app.models, keyless=self._app.keyless)))

    async def _apply(self, body: bytes) -> bytes:
        assert self._registry is not None
        assert self._app is not None
        configuration = decode(body, Configuration)
        await self._registry.apply_configuration(configuration)
        self._app.replace_static_keys(configuration.static_keys)
        log.set_level(self._app.settings.server.log_level)
        await asyncio.sleep(0)  # who holds an engine is told before this is
        return b""

    def _registry_tell(self, name: str, body: bytes) -> None:
        if self._registry is None:
            self._early.append((name, body))
        elif name == "share":
            self._registry.on_share(body)
        elif name == "engine":
            self._registry.on_state(body)
        else:
            self._registry.set_draining(decode(body, Draining))

    async def _set_draining(self, body: bytes) -> bytes:
        self._registry_tell("draining", body)
        return b""

    def drain(self) -> None:
        """Begin to drain; when called again, cut the requests that still run."""
        if self._server is None or self._serving is None:
            self.over.set()
        else:
            self._server.stop()


async def _work(inherited: Inherited) -> None:
    prepare_memory()
    listeners = [socket.socket(fileno=number) for number in inherited.listeners]
    for listener in listeners:
        listener.setblocking(False)
    connection = socket.socket(fileno=inherited.channel)
    connection.setblocking(False)
    worker = Worker(listeners, hands_on=inherited.hands_on)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    reading = Loop("parent channel", lambda: worker.channel.run(connection, asyncio.Event()))
    await worker.over.wait()
    await asyncio.sleep(0)  # for what was told last
    await reading.stop()
    for listener in listeners:
        listener.close()
    ignore_signals()


def main() -> None:
    inherited = msgspec.json.decode(sys.argv[1], type=Inherited)
    die_with_parent(inherited.parent)
    for sig in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(inherited))
    exit_soon()


if __name__ == "__main__":
    main()
