"""Keeps one engine running: starts it, knows when it is ready, restarts it, ends it.

Rule: the supervising task alone starts and ends processes. ``stop`` only asks it to, and waits:
whoever cancels ``stop`` cancels the waiting, not the ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reverie.errors import ModelError
from reverie.log import fields
from reverie.models.gguf import Header, read_header
from reverie.runner import probe
from reverie.runner.cores import usable_cores
from reverie.runner.directory import SOCKET_NAME, TEMPLATE_NAME, PrivateDirectory
from reverie.runner.logfile import LogFile
from reverie.runner.memory import estimate
from reverie.runner.options import MODEL_REFUSED, NOT_EXECUTABLE, XLLAMACPP, EngineOptions
from reverie.runner.process import EngineProcess
from reverie.runner.template import CHATML, teach_tools
from reverie.settings import ModelSettings

State: TypeAlias = Literal["stopped", "loading", "ready", "restarting", "failed"]

DEFAULT_CONTEXT = 32768
"""Tokens of context at the most unless the settings ask for more: memory for all of them is taken
at the start, 22 KiB a token for the smallest model, 128 KiB for one of 8 billion parameters."""

LOAD_TIMEOUT = 300.0
"""Seconds in which an engine must have loaded its model."""

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
"""Seconds between two starts, at the most: well within the time that a request waits for a slot."""
_HEALTHY_AFTER = 60.0
"""Seconds of service after which earlier deaths are forgotten."""
_TRIES = 5
"""An engine that has died this often without ever being ready has failed for good."""
_LOG_CHECK_INTERVAL = 60.0

_LIFE_CHECK_INTERVAL = 10.0
_LIFE_CHECKS = 3
"""An engine that leaves so many questions in a row unanswered hangs, and is replaced. It has 5 s
for each: it takes 45 s at the most to notice, and 5 s where a request waits in vain."""
_SILENT = 1 << 16
"""Stands for the exit status of an engine that hung; no process has it."""

logger = logging.getLogger("reverie.runner")


class Runner:
    """One supervised engine.

    Args:
        name: the model's name, which the engine's answers carry.
        model: the GGUF file.
        load_timeout: seconds in which the engine must have loaded it.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        settings: ModelSettings,
        *,
        load_timeout: float = LOAD_TIMEOUT,
    ) -> None:
        self.name = name
        self.model = model
        self.state: State = "stopped"
        self.pid: int | None = None
        """The engine's process, while there is one."""
        self.context: int | None = None
        """Tokens that one request may use, prompt and answer; known once the engine is ready."""
        self.failure: str | None = None
        """Why it can't run, in one sentence for the operator; None while it can."""
        self._settings = settings
        self._load_timeout = load_timeout
        self._log = LogFile(name)
        self._directory: PrivateDirectory | None = None
        self.expected_context: int
        """Tokens that one request is likely to be given; known once checked, as what follows."""
        self.kv_tokens: int
        """Tokens that the running requests may use together.

        When they need more, llama.cpp fails every one of them, not just the last.
        """
        self.memory: int
        """Bytes that the engine takes, by an estimate."""
        self._options: EngineOptions
        self._preparing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._change = asyncio.Event()
        self._life: probe.LifeCheck | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._served = False

    @property
    def socket(self) -> Path:
        """The Unix socket that the engine answers HTTP on; known once started."""
        return Path(self._options.socket)

    @property
    def log_path(self) -> Path:
        """The engine's own output. The one of the start before has ``.1`` appended."""
        return self._log.path

    @property
    def log_tail(self) -> list[str]:
        """The last 20 lines that the latest engine wrote."""
        return self._log.tail()

    async def check(self) -> None:
        """Check the model and the engine without starting it. ``start`` does so, too.

        Raises:
            ModelError: one of them can't be used.
        """
        await asyncio.to_thread(self._check)

    async def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Check the model and start the engine; returns without waiting for readiness.

        ``on_change`` is called, in the event loop, whenever ``state`` or ``pid`` changed.

        Raises:
            ModelError: the model file or the engine can't be used.
        """
        if self._task is not None:
            return
        self._on_change = on_change
        self._stopping.clear()
        self._served = False
        self.failure = None
        try:
            self._preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare))
            await asyncio.shield(self._preparing)
        except OSError as error:
            self.failure = (
                f"The engine of {self.name} can't be prepared: {error.strerror}: {error.filename}."
            )
            raise ModelError(self.failure) from None
        except ModelError as error:
            self.failure = str(error)
            raise
        self._set("loading")
        self._task = asyncio.create_task(self._supervise(), name=f"runner {self.name}")

    async def wait_ready(self, timeout: float) -> None:
        """Wait until the engine can answer.

        Raises:
            ModelError: it can't run, or isn't ready after ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.state != "ready":
                    if self.failure is not None:
                        raise ModelError(self.failure)
                    if self.state == "stopped":
                        raise ModelError(f"The engine of {self.name} isn't running.")
                    await self.changed()
        except TimeoutError:
            raise ModelError(
                f"The engine of {self.name} isn't ready after {timeout:g} s."
            ) from None

    async def changed(self) -> None:
        """Wait for the next change of ``state`` or ``pid``."""
        await self._change.wait()

    async def doubt(self) -> bool:
        """Ask the engine whether it lives, since its work stands still. One that says nothing is
        replaced, as one that died: False.
        """
        if self._life is None or not await self._life.doubt():
            while self.state == "ready":
                await self.changed()
        return self.state == "ready"

    async def stop(self) -> None:
        """End the engine and remove its directory. Idempotent."""
        self._stopping.set()
        self._set("stopped", self.pid)
        if self._preparing is not None:  # in its thread it goes on, even if ``start`` is cancelled
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self._task is not None:
            await asyncio.shield(self._task)
            self._task = None
        elif self._directory is not None:  # ``start`` didn't get as far as an engine
            self._directory.remove()
        self._log.release()
        self._set("stopped")

    def _set(self, state: State, pid: int | None = None) -> None:
        if (state, pid) == (self.state, self.pid):
            return
        self.state, self.pid = state, pid
        change, self._change = self._change, asyncio.Event()
        change.set()
        self._on_change()

    def _check(self) -> tuple[Header, str]:
        """Check what can be checked before a start; give the model's header and the engine."""
        header = read_header(self.model)
        engine = _find_engine(self._settings.engine)
        context = self._settings.context or min(header.context_length, DEFAULT_CONTEXT)
        self.expected_context = context
        self.kv_tokens = self._settings.kv_tokens or _room_for(context)
        self.memory = estimate(self.model, header, self.kv_tokens, self._settings.cache_mib)
        return header, engine

    def _prepare(self) -> None:
        """Check, and make the directory and the options."""
        settings = self._settings
        header, engine = self._check()
        self._log.rotate()
        self._directory = PrivateDirectory()
        template = self._directory.path / TEMPLATE_NAME
        template.write_text(teach_tools(header.chat_template or CHATML), encoding="utf-8")
        self._options = EngineOptions(
            engine=engine,
            model=str(self.model),
            alias=self.name,
            socket=str(self._directory.path / SOCKET_NAME),
            template=str(template),
            slots=settings.slots,
            context=0 if self.expected_context == header.context_length else self.expected_context,
            kv_tokens=self.kv_tokens,
            batch=settings.batch,
            threads=settings.threads or usable_cores(),
            gpu_layers=settings.gpu_layers,
            cache_type_k=settings.cache_type_k,
            cache_mib=settings.cache_mib,
            parent=os.getpid(),
        )

    async def _supervise(self) -> None:
        deaths = 0
        try:
            while True:
                began = time.monotonic()
                try:
                    status = await self._run()
                    reason = self._explain(status)
                except OSError as error:
                    status = None
                    reason = f"The engine of {self.name} can't be started: {error.strerror}."
                if self._stopping.is_set():
                    return
                deaths = 1 if time.monotonic() - began >= _HEALTHY_AFTER else deaths + 1
                hopeless = status in (MODEL_REFUSED, NOT_EXECUTABLE) or deaths >= _TRIES
                if hopeless and not self._served:
                    self._fail(reason)
                    return
                delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (deaths - 1))
                self._set("restarting")
                logger.warning(
                    "engine died",
                    extra=fields(model=self.name, reason=reason, restarting_in_s=delay),
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                    return
        finally:
            if self._directory is not None:
                self._directory.remove()

    async def _run(self) -> int | None:
        """Run one engine from its start to its end.

        Returns its exit status (negative: the signal that killed it), ``_SILENT`` if it was ended
        because it hung, or None if it was asked to stop, or wasn't ready in time.
        """
        self.socket.unlink(missing_ok=True)
        began = time.monotonic()
        with self._log.open() as output:
            engine = await EngineProcess.spawn(self._options, output)
        stopping = asyncio.ensure_future(self._stopping.wait())
        ready = asyncio.ensure_future(self._probe())
        silent: asyncio.Future[None] | None = None
        hangs = False
        ends: set[asyncio.Future[Any]] = {engine.exited, stopping}
        try:
            self._set(self.state, engine.pid)
            logger.info("engine started", extra=fields(model=self.name, pid=engine.pid))
            await asyncio.wait(
                ends | {ready},
                timeout=self._load_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done() and not any(end.done() for end in ends):
                self._announce(engine.pid, ready.result(), time.monotonic() - began)
                self._life = probe.LifeCheck(
                    self.socket, interval=_LIFE_CHECK_INTERVAL, misses=_LIFE_CHECKS
                )
                silent = asyncio.ensure_future(self._life.wait_silent())
                ends.add(silent)
                while not any(end.done() for end in ends):
                    await asyncio.wait(
                        ends,
                        timeout=_LOG_CHECK_INTERVAL,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    self._log.trim()
            if engine.exited.done():
                return engine.exited.result()
            hangs = silent is not None and silent.done() and not stopping.done()
            if hangs:
                self._set("restarting", engine.pid)  # no request goes there while it is ended
                return _SILENT
            return None
        finally:
            stopping.cancel()
            ready.cancel()
            if silent is not None:
                silent.cancel()
            self._life = None
            await engine.end(asking=not hangs)
            self._set("restarting" if self.state == "ready" else self.state)

    async def _probe(self) -> int | None:
        """Wait until the engine is healthy; gives the tokens that one request may use."""
        await probe.wait_healthy(self.socket)
        return await probe.slot_context(self.socket)

    def _announce(self, pid: int, context: int | None, seconds: float) -> None:
        self.context = context or self.expected_context
        self._served = True
        self._set("ready", pid)
        logger.info(
            "engine ready",
            extra=fields(model=self.name, pid=pid, context=self.context, seconds=seconds),
        )

    def _fail(self, reason: str) -> None:
        self.failure = reason
        logger.error(
            "engine failed", extra=fields(model=self.name, reason=reason, log=self.log_path)
        )
        for line in self.log_tail:
            logger.error("engine said: %s", line)
        self._set("failed")

    def _explain(self, status: int | None) -> str:
        """One sentence, without paths, on an engine that ended by itself."""
        if status is None:
            return f"The engine of {self.name} did not become ready in {self._load_timeout:g} s."
        if status == _SILENT:
            return f"The engine of {self.name} hung: it answered nothing any more."
        if status == MODEL_REFUSED:
            causes = _ENGINE_SAYS.findall("\n".join(self.log_tail))
            cause = causes[-1] if causes else "its log says why"
            return f"The engine can't load {self.model.name}: {cause}."
        if status == NOT_EXECUTABLE:
            return (
                f"The engine {Path(self._options.engine).name} is not a program for this machine."
            )
        if status < 0:
            return f"The engine of {self.name} was killed by {_signal_name(-status)}."
        return f"The engine of {self.name} ended with status {status}."


_ENGINE_SAYS = re.compile(r"error loading model: (.+?)\.?$", re.MULTILINE)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _find_engine(engine: str) -> str:
    """The engine's name, or the absolute path of its binary.

    Raises:
        ModelError: there is no such program.
    """
    if engine == XLLAMACPP:
        return engine
    found = shutil.which(Path(engine).expanduser())
    if found is None:
        raise ModelError(
            f"The engine {engine} is neither {XLLAMACPP!r} nor a program that can be run."
        )
    return os.path.abspath(found)


def _room_for(context: int) -> int:
    """Tokens for all slots together: twice the context, as long as that is not too much memory."""
    return max(context, min(2 * context, DEFAULT_CONTEXT))
