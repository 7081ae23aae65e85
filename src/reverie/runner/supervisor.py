"""Keeps one engine running: starts it, finds out when it is ready, restarts it, ends it.

Rule: only the supervising task starts and ends processes. ``stop`` asks it to and waits, so
cancelling ``stop`` cancels the wait, and the engine is ended all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reverie import background
from reverie.background import Loop, Watch
from reverie.errors import ModelError
from reverie.log import fields
from reverie.models.gguf import Header, read_header
from reverie.runner.directory import KEY_NAME, SOCKET_NAME, TEMPLATE_NAME, PrivateDirectory
from reverie.runner.endpoint import Endpoint
from reverie.runner.logfile import LogFile
from reverie.runner.options import MODEL_REFUSED, NOT_EXECUTABLE, PORT_TAKEN, EngineOptions
from reverie.runner.port import Port
from reverie.runner.probe import LivenessProbe, slot_context, wait_healthy
from reverie.runner.process import EngineProcess, find_engine, how_it_ended
from reverie.runner.resources import estimate_memory, usable_cores
from reverie.runner.shape import Shape, shape_of
from reverie.runner.template import CHATML, teach_tools
from reverie.runner.tuned import Tuned, conditions_of, kept
from reverie.settings import ModelSettings

State: TypeAlias = Literal["stopped", "loading", "ready", "restarting", "failed"]

_End: TypeAlias = int | Literal["hung"] | None
"""How an engine ended: by itself, with this exit status (negative: the signal that killed it); or
it was ended because it hung (``hung``), or because it wasn't ready in time or was to stop (None).
"""

LOAD_TIMEOUT = 300.0
"""Seconds within which an engine must have loaded its model."""

_FIRST_DELAY = 0.1
"""Seconds before the first restart. The delay doubles with each further failure."""
_MAX_DELAY = 10.0
"""Seconds: well within the time that a request waits for a slot."""
_HEALTHY_AFTER = 60.0
"""An engine that ran for this many seconds starts again without a record of failures."""
_MAX_FAILURES = 5
"""After this many failures without ever being ready, an engine has failed for good."""
_LOG_CHECK_INTERVAL = 60.0
"""Seconds between two looks at the size of the engine's log."""

_LIVENESS_INTERVAL = 10.0
"""Seconds between two liveness probes."""
_LIVENESS_FAILURES = 3
"""An engine that leaves this many probes in a row unanswered hangs, and is replaced. With 5 s for
each probe it takes 45 s at most to notice, and 5 s once a request has timed out."""

logger = logging.getLogger("reverie.runner")


class Runner:
    """One supervised engine.

    Args:
        name: the model's name, which the engine's answers carry.
        model: the GGUF file.
        load_timeout: seconds in which the engine must have loaded it.
        port: what it listens on in place of a Unix socket. Whoever made it releases it.
        key: what requests must carry; empty: nothing.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        settings: ModelSettings,
        *,
        load_timeout: float = LOAD_TIMEOUT,
        port: Port | None = None,
        key: str = "",
    ) -> None:
        self.name = name
        self.model = model
        self.state: State = "stopped"
        self.pid: int | None = None
        """The engine's process; None while there is none."""
        self.context: int | None = None
        """Tokens that one request may use, prompt and answer; known once the engine is ready."""
        self.failure: str | None = None
        """Why the engine can't run, in one sentence for the operator; None while it can."""
        self._settings = settings
        self._load_timeout = load_timeout
        self._port = port
        self._key = key
        self._log = LogFile(name)
        self._directory: PrivateDirectory | None = None
        self.expected_context = 0  # until ``check`` reads the file
        """Tokens that one request will probably get. Known after ``check``, like the next two."""
        self.kv_tokens: int
        """Tokens that the running requests may use together.

        When they need more, llama.cpp fails all of them, not just the last.
        """
        self.memory: int
        """Bytes that the engine takes, by an estimate."""
        self._options: EngineOptions
        self._shape: Shape
        self._preparing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._change = asyncio.Event()
        self._liveness: LivenessProbe | None = None
        self._watch = Watch("engine supervisor")
        self._on_change: Callable[[], None] = lambda: None
        self._was_ready = False

    @property
    def socket(self) -> Path:
        """The Unix socket that the engine answers HTTP on; known once started."""
        return Path(self.endpoint.host)

    @property
    def endpoint(self) -> Endpoint:
        """Where the engine answers; known once started. Of a port, it may change with a restart."""
        return self._options.endpoint

    @property
    def slots(self) -> int:
        """Requests that it runs at once; known after ``check``."""
        return self._shape.slots

    @property
    def log_path(self) -> Path:
        """The log of the engine's own output. That of the previous start has ``.1`` appended."""
        return self._log.path

    @property
    def log_tail(self) -> list[str]:
        """The last 20 lines that the current engine, or the one before it, wrote."""
        return self._log.tail()

    async def check(self) -> None:
        """Check the model and the engine without starting it. ``start`` checks them, too.

        Raises:
            ModelError: one of them can't be used.
        """
        await asyncio.to_thread(self._check)

    async def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Check the model and start the engine; doesn't wait until it is ready.

        Args:
            on_change: called in the event loop after each change of ``state`` or ``pid``.

        Raises:
            ModelError: the model file or the engine can't be used.
        """
        if self._task is not None:
            return
        self._on_change = on_change
        self._stopping.clear()
        self._was_ready = False
        self.failure = None
        try:
            self._preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare))
            await asyncio.shield(self._preparing)
        except OSError as error:
            self.failure = (
                f"The engine of {self.name} can't be prepared: {error.strerror}: {error.filename}. "
                "Set XDG_STATE_HOME to a folder that can be written."
            )
            raise ModelError(self.failure) from None
        except ModelError as error:
            self.failure = str(error)
            raise
        self._set("loading")
        self._task = background.once("engine supervisor", self._supervise)

    async def wait_ready(self, timeout: float) -> None:
        """Wait until the engine is ready.

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

    async def check_alive(self) -> bool:
        """Probe the engine now, because a request makes no progress there.

        Returns False if it hangs; by then it is being replaced.
        """
        if self._liveness is None or not await self._liveness.probe_now():
            while self.state == "ready":
                await self.changed()
        return self.state == "ready"

    async def stop(self) -> None:
        """End the engine and remove its directory. Idempotent."""
        self._stopping.set()
        self._set("stopped", self.pid)
        if self._preparing is not None:  # its thread runs on even if ``start`` was cancelled
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self._task is not None:
            await asyncio.wait({self._task})
            self._task = None
        elif self._directory is not None:  # ``start`` ended before there was an engine
            self._directory.remove()
        self._log.release()
        self._set("stopped")

    def forget_failure(self) -> None:
        """Let it be started again though it failed for good. It must be stopped."""
        self.failure = None

    def _set(self, state: State, pid: int | None = None) -> None:
        if (state, pid) == (self.state, self.pid):
            return
        self.state, self.pid = state, pid
        change, self._change = self._change, asyncio.Event()
        change.set()
        try:
            self._on_change()
        except Exception as failure:  # of its owner; the supervision goes on
            self._watch.failed(failure)

    def _check(self) -> tuple[Header, str]:
        """Check what can be checked before a start.

        Returns the model's header, and the engine as ``find_engine`` does.
        """
        header = read_header(self.model)
        engine = find_engine(self._settings.engine)
        self._shape = shape_of(self.model.name, header, self._settings)
        self.expected_context = self._shape.context
        self.kv_tokens = self._shape.kv_tokens
        cache_mib = self._settings.cache_mib if self._settings.task == "generate" else 0
        self.memory = estimate_memory(self.model, header, self.kv_tokens, cache_mib)
        return header, engine

    def _prepare(self) -> None:
        """Check, and create the engine's log, directory and options. Runs in a thread."""
        settings = self._settings
        header, engine = self._check()
        tuned = self._tuned(engine)
        self._log.rotate()
        self._directory = PrivateDirectory()
        generates, shape = settings.task == "generate", self._shape
        template = self._directory.path / TEMPLATE_NAME
        if generates:
            template.write_text(teach_tools(header.chat_template or CHATML), encoding="utf-8")
        self._options = EngineOptions(
            engine=engine,
            model=str(self.model),
            alias=self.name,
            endpoint=Endpoint(str(self._directory.path / SOCKET_NAME), key_file=self._write_key()),
            template=str(template) if generates else None,
            slots=shape.slots,
            context=0 if shape.context == header.context_length else shape.context,
            kv_tokens=shape.kv_tokens or shape.context * shape.slots,
            batch=shape.batch or (tuned.batch if tuned else 0),
            threads=settings.threads or (tuned.threads if tuned else usable_cores()),
            gpu_layers=settings.gpu_layers,
            cache_type_k=settings.cache_type_k,
            cache_mib=settings.cache_mib if generates else 0,
            parent=os.getpid(),
            task=settings.task,
            pooling=shape.pooling,
        )

    def _write_key(self) -> str:
        """The file with its key; empty if it wants none."""
        if not self._key:
            return ""
        assert self._directory is not None
        file = self._directory.path / KEY_NAME
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(self._key)
        return str(file)

    def _tuned(self, engine: str) -> Tuned | None:
        """What ``reverie tune`` chose for what the settings leave open."""
        settings = self._settings
        if settings.task != "generate" or (settings.threads and settings.batch):
            return None
        try:
            tuned = kept(conditions_of(self.model, engine))
        except OSError:  # it will fail where that is reported
            return None
        if tuned is not None:
            chosen = fields(
                model=self.name,
                threads=settings.threads or tuned.threads,
                batch=settings.batch or tuned.batch,
            )
            logger.info("engine runs as reverie tune measured", extra=chosen)
        return tuned

    async def _supervise(self) -> None:
        failures = 0
        self._watch = Watch("engine supervisor")
        try:
            while True:
                began = time.monotonic()
                end: _End
                try:
                    end = await self._run()
                    reason = self._explain(end)
                except ModelError as error:  # there is no port
                    end = None
                    reason = str(error)
                except OSError as error:
                    end = None
                    reason = f"The engine of {self.name} can't be started: {error.strerror}."
                except Exception as failure:
                    end = None
                    reason = f"The engine of {self.name} can't be watched."
                    self._watch.failed(failure, model=self.name)
                if self._stopping.is_set():
                    return
                failures = 1 if time.monotonic() - began >= _HEALTHY_AFTER else failures + 1
                hopeless = end in (MODEL_REFUSED, NOT_EXECUTABLE) or failures >= _MAX_FAILURES
                if hopeless and not self._was_ready:
                    self._fail(reason)
                    return
                delay = min(_MAX_DELAY, _FIRST_DELAY * 2 ** (failures - 1))
                self._set("restarting")
                logger.warning(
                    "engine died",
                    extra=fields(model=self.name, reason=reason, restarting_in_s=delay),
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                        return
        finally:
            self._watch.end()
            if self._directory is not None:
                self._directory.remove()

    async def _run(self) -> _End:
        """Run one engine from its start to its end."""
        self._make_way()
        began = time.monotonic()
        with self._log.open() as output:
            engine = await EngineProcess.spawn(self._options, output)
        stopping = asyncio.ensure_future(self._stopping.wait())
        ready = asyncio.ensure_future(self._probe())
        ends: set[asyncio.Future[Any]] = {engine.exited, stopping}
        hangs = False
        try:
            self._set(self.state, engine.pid)
            logger.info("engine started", extra=fields(model=self.name, pid=engine.pid))
            await asyncio.wait(
                ends | {ready},
                timeout=self._load_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done() and not any(end.done() for end in ends):
                self._became_ready(engine.pid, ready.result(), time.monotonic() - began)
                hangs = await self._hangs_before(ends)
            if engine.exited.done():
                return engine.exited.result()
            if hangs:
                self._set("restarting", engine.pid)  # no request goes there while it is ended
                return "hung"
            return None
        finally:
            stopping.cancel()
            ready.cancel()
            await engine.end(gracefully=not hangs)
            self._set("restarting" if self.state == "ready" else self.state)

    def _make_way(self) -> None:
        """Have what it listens on free.

        Raises:
            ModelError: there is no port.
        """
        if self._port is None:
            self.socket.unlink(missing_ok=True)
            return
        at = self.endpoint._replace(host=self._port.host, port=self._port.take())
        self._options = self._options._replace(endpoint=at)

    async def _hangs_before(self, ends: set[asyncio.Future[Any]]) -> bool:
        """Watch a ready engine; True once it hangs, False once one of ``ends`` is done."""
        self._liveness = LivenessProbe(
            self.endpoint, interval=_LIVENESS_INTERVAL, failure_threshold=_LIVENESS_FAILURES
        )
        watching = Loop("engine liveness", self._liveness.watch)
        hung = asyncio.ensure_future(self._liveness.hung.wait())
        try:
            while not any(end.done() for end in (hung, *ends)):
                await asyncio.wait(
                    {hung, *ends},
                    timeout=_LOG_CHECK_INTERVAL,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                with self._watch.step():
                    self._log.trim()
            return not any(end.done() for end in ends)
        finally:
            hung.cancel()
            await watching.stop()
            self._liveness = None

    async def _probe(self) -> int | None:
        """Wait until the engine is healthy, and return what ``slot_context`` does."""
        await wait_healthy(self.endpoint)
        return await slot_context(self.endpoint)

    def _became_ready(self, pid: int, context: int | None, seconds: float) -> None:
        self.context = context or self.expected_context
        self._was_ready = True
        self._set("ready", pid)
        logger.info(
            "engine ready",
            extra=fields(model=self.name, pid=pid, context=self.context, seconds=seconds),
        )

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._set("failed")
        logger.error(
            "engine failed", extra=fields(model=self.name, reason=reason, log=self.log_path)
        )
        for line in self.log_tail:
            logger.error("engine said: %s", line)

    def _explain(self, status: _End) -> str:
        """One sentence, without paths, on why an engine ended."""
        if status is None:
            return f"The engine of {self.name} did not become ready in {self._load_timeout:g} s."
        if status == "hung":
            return f"The engine of {self.name} hung: it no longer answered."
        if status == MODEL_REFUSED:
            causes = _LOAD_ERROR.findall("\n".join(self.log_tail))
            cause = causes[-1] if causes else "its log says why"
            return f"The engine can't load {self.model.name}: {cause}."
        if status == PORT_TAKEN:
            return f"Another program took the port of the engine of {self.name}."
        if status == NOT_EXECUTABLE:
            return (
                f"The engine {Path(self._options.engine).name} is not a program for this machine."
            )
        verb = "was killed by" if status < 0 else "ended with"
        return f"The engine of {self.name} {verb} {how_it_ended(status)}."


_LOAD_ERROR = re.compile(r"error loading model: (.+?)\.?$", re.MULTILINE)
