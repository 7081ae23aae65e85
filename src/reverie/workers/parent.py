"""The parent of the workers: it owns engines, slots, addresses and reloads, and serves nothing.

Workers keep limits, accounts and idempotency together through their store, as gateways on several
machines do. What only one process can decide is decided here: which engines run, how slots are
shared out, whether a configuration can be used. No request passes through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import reverie
from reverie import background, log
from reverie.addresses import require_keys
from reverie.app import authenticator, open_store
from reverie.background import Loop
from reverie.errors import ConfigurationError, ModelError, Overloaded, StoreFailure
from reverie.gateway.siblings import Answer, Reload
from reverie.reload import Reloader, warn_of_own_backends
from reverie.settings import Settings
from reverie.store.database.migrate import migrate
from reverie.systemd import SILENT, Notifier
from reverie.workers.channel import ChannelClosed, Tell
from reverie.workers.engines import Engines
from reverie.workers.listening import Address
from reverie.workers.messages import (
    Asked,
    Began,
    Configuration,
    Draining,
    EngineState,
    Holders,
    Load,
    Ready,
    Reloaded,
    Unload,
    decode,
    encode,
)
from reverie.workers.process import WorkerProcess
from reverie.workers.shares import Report, Share

logger = logging.getLogger("reverie")

_ASK_TIMEOUT = 2.0
"""Seconds for a worker's answer to another's question."""
_APPLY_TIMEOUT = 60.0
"""Seconds for a worker to put a new configuration in force. One that can't is replaced."""
_STOP_GRACE = 10.0
"""Seconds for a worker to end, beyond those for its requests."""
_FIRST_DELAY = 0.1
"""Seconds before a worker that died is started again; doubled with each failure in a row."""
_MAX_DELAY = 10.0
_HEALTHY_AFTER = 60.0
"""Seconds after which a worker starts again without a record of failures."""

OnReady: TypeAlias = Callable[[Ready], None]


class Parent:
    """The parent process.

    Args:
        read: returns the configuration as it is written now.
        addresses: what the workers listen on.
        on_ready: called once the default model can answer.
        notifier: tells the service manager.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        addresses: Sequence[Address],
        *,
        on_ready: OnReady,
        notifier: Notifier = SILENT,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.failure: str | None = None
        """Why the server stopped by itself, for the operator."""
        self._addresses = addresses
        self._notifier = notifier
        self._on_ready: OnReady | None = on_ready
        self._store = open_store(settings)
        self._keys = authenticator(settings, self._store, environ)
        self._engines = Engines(
            settings, environ, send_share=self._send_share, send_state=self._send_state
        )
        self._reloader = Reloader(
            self._engines, self._keys, read, environ, then=self._apply_everywhere
        )
        self._workers: dict[int, WorkerProcess] = {}
        self._keeping: list[Loop] = []
        self._draining: set[tuple[int, str]] = set()
        self._changed = asyncio.Event()
        self._numbers = itertools.count(1)
        self._began = 0
        self._generation = 0
        """Counts up with each reload."""
        self._is_ready: Ready | None = None
        self._start_failure: Exception | None = None
        self._stopping = False
        self._reloading: set[asyncio.Task[None]] = set()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._engines.settings

    # Its life -------------------------------------------------------------------------------

    async def run(self, terminal_closed: Callable[[], bool]) -> None:
        """Serve until a signal, and drain.

        Args:
            terminal_closed: tells on SIGHUP whether it means the end rather than a reload.

        Raises:
            ConfigurationError, ModelError: as ``start``.
        """
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self.drain)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: self.drain() if terminal_closed() else self._begin_to_reload()
        )
        watching = Loop("service watchdog", self._notifier.watch)
        try:
            await self._serve()
        finally:
            await watching.stop()
        logger.info("stopped")

    async def _serve(self) -> None:
        await self.start()
        if not self._stopping:
            host, port = self._addresses[0].host, self._addresses[0].port
            logger.info(
                "listening",
                extra=log.fields(
                    version=reverie.__version__,
                    host=host,
                    port=port,
                    workers=self.settings.server.workers,
                ),
            )
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        await self.wait()

    def _begin_to_reload(self) -> None:
        task = background.once("reload", self._reload)
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        told = contextlib.suppress(ConfigurationError, Overloaded)  # logged already
        with self._notifier.reloading(), told:
            await self._reloader.reload()

    async def start(self) -> None:
        """Start the engines and the workers; returns once all workers serve.

        Raises:
            ConfigurationError, ModelError: as ``Application.start``.
        """
        assert self._store is not None  # the settings require one
        try:
            await asyncio.to_thread(migrate, self._store)
            await self._keys.start()
        except StoreFailure as failure:
            raise ConfigurationError([f"store.url: the store can't be used: {failure}"]) from None
        require_keys(self.settings.server, keyless=self._keys.open)
        warn_of_own_backends(self.settings)
        await self._engines.start()
        count = self.settings.server.workers
        self._keeping = [Loop("worker", self._keep_worker) for _ in range(count)]
        while self._began < count and not self._stopping:
            await self._wait_for_change()
            if self._start_failure is not None:
                raise self._start_failure

    async def wait(self) -> None:
        """Wait until it is told to stop, or no model will ever answer; then until all workers have
        ended."""
        while not self._stopping:
            await self._wait_for_change()
        limit = self.settings.server.drain_timeout + _STOP_GRACE
        try:
            async with asyncio.timeout(limit):
                while self._workers:
                    await self._wait_for_change()
        except TimeoutError:
            logger.warning("workers are killed", extra=log.fields(count=len(self._workers)))

    def drain(self) -> None:
        """Have all workers drain; when called again, cut the requests that still run."""
        self._stopping = True
        self._notifier.stopping()
        for address in self._addresses:
            address.close()
        for worker in self._workers.values():
            if worker.started:
                worker.channel.tell("drain")
            else:
                worker.kill()
        self._changed.set()

    async def stop(self) -> None:
        """End everything, workers first. Idempotent."""
        self._stopping = True
        await self._reloader.close()
        for worker in self._workers.values():
            worker.kill()
        for keeping in self._keeping:
            await keeping.stop()
        await self._engines.stop()
        await self._keys.stop()
        if self._store is not None:
            self._store.close()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    # Workers --------------------------------------------------------------------------------

    async def _keep_worker(self) -> None:
        """Keep one worker running until the server stops."""
        failures, served = 0, False
        while not self._stopping:
            began = time.monotonic()
            reason = await self._run_worker(is_first=not served)
            if self._stopping or self._start_failure is not None:
                return
            served = True
            lasted = time.monotonic() - began >= _HEALTHY_AFTER
            failures = 1 if lasted else failures + 1
            delay = min(_MAX_DELAY, _FIRST_DELAY * 2 ** (failures - 1))
            logger.error("worker died", extra=log.fields(reason=reason, restarting_in_s=delay))
            await asyncio.sleep(delay)

    async def _run_worker(self, *, is_first: bool) -> str:
        """Run one worker from its start to its end; return why it ended."""
        worker = self._new_worker()
        self._workers[worker.number] = worker
        try:
            generation = self._generation
            began = await self._start_worker(worker)
            if began.problems:
                if is_first:
                    self._start_failure = (
                        ConfigurationError(began.problems)
                        if began.is_configuration
                        else ModelError(" ".join(began.problems))
                    )
                return " ".join(began.problems)
            while generation != self._generation:  # there was a reload meanwhile
                generation = self._generation
                await self._apply(worker)
            self._began += is_first
            self._announce()
            logger.info("worker started", extra=log.fields(pid=worker.pid))
            if self._stopping:
                worker.channel.tell("drain")
            self._engines.share_with(worker.number)
            self._changed.set()
            return f"it ended with {await worker.wait()}"
        finally:
            worker.kill()
            del self._workers[worker.number]
            self._engines.leave(worker.number)
            self._changed.set()

    async def _start_worker(self, worker: WorkerProcess) -> Began:
        listeners: list[socket.socket] = []
        try:
            listeners += (address.open() for address in self._addresses)
        except ConfigurationError as error:
            for listener in listeners:
                listener.close()
            return Began(list(error.problems))
        hands_on = any(address.is_handed for address in self._addresses)
        return await worker.start(listeners, self._configuration, hands_on=hands_on)

    def _new_worker(self) -> WorkerProcess:
        number, engines = next(self._numbers), self._engines
        tells: dict[str, Tell] = {
            "report": lambda body: engines.report(number, decode(body, Report)),
            "holders": lambda body: engines.hold(number, decode(body, Holders)),
            "left": lambda body: engines.left(number, decode(body, int)),
            "load": lambda body: engines.load(decode(body, Load)),
            "ready": self._ready,
            "failed": self._failed,
        }
        answers: dict[str, Answer] = {
            "siblings": partial(self._ask_siblings, number),
            "draining": partial(self._set_draining, number),
            "check_alive": self._check_alive,
            "unload": self._unload,
            "reload": partial(self._answer_reload, self._reloader.reload),
            "preview": partial(self._answer_reload, self._reloader.preview),
        }
        return WorkerProcess(number, tells, answers)

    def _configuration(self) -> Configuration:
        return Configuration(
            settings=pickle.dumps(self.settings),
            numbers=self._engines.numbers,
            static_keys=self._keys.static,
            engines=self._engines.states(),
            draining=sorted(self._draining),
        )

    async def _apply_everywhere(self) -> None:
        """Put the configuration in force in all workers."""
        self._generation += 1
        kept = self._engines.numbers.values()
        self._draining = {one for one in self._draining if one[0] in kept}
        try:
            await asyncio.gather(*map(self._apply, self._started))
        finally:
            self._engines.release_old()

    async def _apply(self, worker: WorkerProcess) -> None:
        """Put the configuration in force in a worker. One that can't do it is replaced."""
        configuration = encode(self._configuration())
        try:
            await worker.channel.ask("apply", configuration, timeout=_APPLY_TIMEOUT)
        except (ChannelClosed, TimeoutError) as failure:
            reason = str(failure) or "it takes too long"
            logger.error("a worker can't reload and is replaced", extra=log.fields(reason=reason))
            worker.kill()

    @property
    def _started(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.started]

    # What it tells them ---------------------------------------------------------------------

    def _send_share(self, worker: int, share: Share) -> None:
        if worker in self._workers:
            self._workers[worker].channel.tell("share", encode(share))

    def _send_state(self, state: EngineState) -> None:
        body = encode(state)
        for worker in self._workers.values():
            worker.channel.tell("engine", body)

    # What they tell and ask it --------------------------------------------------------------

    def _ready(self, body: bytes) -> None:
        self._is_ready = self._is_ready or decode(body, Ready)
        self._announce()

    def _announce(self) -> None:
        """Announce once that all workers serve and the default model can answer."""
        all_serve = self._began == self.settings.server.workers and not self._stopping
        if all_serve and self._is_ready is not None and self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            self._notifier.ready()
            on_ready(self._is_ready)

    def _failed(self, body: bytes) -> None:
        """A worker says that no model will ever answer: so it is with the others."""
        if not self._stopping:
            self.failure = decode(body, str)
            self.drain()

    async def _set_draining(self, sender: int, body: bytes) -> bytes:
        """Remember that a backend drains, for workers that start, and have the others know it."""
        told = decode(body, Draining)
        number = self._engines.numbers.get(told.model)
        if number is None:
            return b""
        if told.draining:
            self._draining.add((number, told.backend))
        else:
            self._draining.discard((number, told.backend))
        await self._ask_others(sender, self._workers.values(), Asked("draining", body))
        return b""

    async def _ask_siblings(self, sender: int, body: bytes) -> bytes:
        return encode(await self._ask_others(sender, self._started, decode(body, Asked)))

    async def _ask_others(
        self, sender: int, workers: Iterable[WorkerProcess], asked: Asked
    ) -> list[bytes]:
        """The answers of these workers but the sender. One that has none in time is left out."""

        async def ask(worker: WorkerProcess) -> bytes | None:
            try:
                return await worker.channel.ask(asked.name, asked.body, timeout=_ASK_TIMEOUT)
            except (ChannelClosed, TimeoutError):
                return None

        others = [worker for worker in workers if worker.number != sender]
        answers = await asyncio.gather(*map(ask, others))
        return [answer for answer in answers if answer is not None]

    async def _check_alive(self, body: bytes) -> bytes:
        return encode(await self._engines.check_alive(decode(body, int)))

    async def _unload(self, body: bytes) -> bytes:
        return encode(await self._engines.unload(decode(body, Unload)))

    async def _answer_reload(self, work: Reload, _: bytes) -> bytes:
        try:
            changes = await work()
        except ConfigurationError as error:
            return encode(Reloaded(None, error.problems))
        except Overloaded:
            return encode(Reloaded(None, [], stops=True))
        return encode(Reloaded(changes, []))
