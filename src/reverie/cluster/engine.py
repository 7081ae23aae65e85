"""One engine of the cluster on this machine: its model's file fetched, llama.cpp kept running.

Rule: nothing here needs the main thread. An engine's child ends with the thread that started it,
which is that of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from reverie import background
from reverie.cluster.messages import EngineInfo, EngineSpec, EngineState
from reverie.cluster.tls import TlsFiles, TlsFront, check, server_context
from reverie.errors import ModelError
from reverie.log import fields
from reverie.models.download import download
from reverie.models.reference import FileReference, parse
from reverie.models.store import find
from reverie.runner.port import Port
from reverie.runner.resources import available_memory
from reverie.runner.supervisor import Runner, State
from reverie.text import in_url

WATCH = 30.0
"""Seconds after which a watch is answered though nothing changed."""
_PROGRESS = 10.0
"""Seconds between two lines in the log on a download."""
_GB = 1e9
_STATES: dict[State, EngineState] = {
    "loading": "loading",
    "ready": "ready",
    "restarting": "restarting",
    "failed": "failed",
}

logger = logging.getLogger("reverie.cluster")


class EngineHost:
    """One engine, from its file's arrival to its end.

    Args:
        name: ``MODEL/NUMBER``.
        uid: no other engine had it.
        host: this machine's address, as gateways reach it.
        ports: those that engines may listen on; None: any.
        tls: None: it speaks plain HTTP.
    """

    def __init__(
        self,
        name: str,
        uid: str,
        spec: EngineSpec,
        *,
        host: str,
        ports: range | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.name = name
        self._spec = spec
        self._settings = spec.model_settings()
        self._port = Port(host, ports)
        self._tls = tls
        self._info = EngineInfo(uid, 1, "loading", key=secrets.token_urlsafe(32))
        self._change = asyncio.Event()
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None
        self._runner: Runner | None = None
        self._front: TlsFront | None = None

    @property
    def info(self) -> EngineInfo:
        """What it tells of itself now."""
        return self._info

    async def start(self) -> None:
        """Begin to fetch and load; doesn't wait for it."""
        if self._task is None:
            self._task = background.once("cluster engine", self._start)

    async def watch(self, seen: int) -> EngineInfo:
        """What it tells of itself, once its ``revision`` is above ``seen``; after half a minute in
        any case."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH):
                while self._info.revision <= seen:
                    await self._change.wait()
        return self._info

    async def stop(self) -> None:
        """End it, and return once it is gone. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._front is not None:
            self._front.stop()
        if self._runner is not None:
            await self._runner.stop()
        self._port.release()

    def _tell(self, **changes: Any) -> None:
        info = replace(self._info, **changes)
        if info == self._info:
            return
        self._info = replace(info, revision=self._info.revision + 1)
        change, self._change = self._change, asyncio.Event()
        change.set()

    def _fail(self, why: str) -> None:
        self._tell(state="failed", why=why)
        logger.error("engine failed", extra=fields(engine=self.name, reason=why))

    async def _start(self) -> None:
        try:
            if self._tls is not None:
                await asyncio.to_thread(check, self._tls, self._port.host)
            await self._load(await self._file())
        except ModelError as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(f"The engine {self.name} can't be started ({type(error).__name__}).")
            raise

    # The file -------------------------------------------------------------------------------

    async def _file(self) -> Path:
        """The model's file, fetched if it isn't on this machine.

        Raises:
            ModelError
        """
        source = str(self._settings.source)
        reference = parse(source)
        if isinstance(reference, FileReference):
            return await asyncio.to_thread(_own_file, reference.path)
        file = await asyncio.to_thread(find, source)
        if file is not None:
            return file
        self._tell(state="fetching", why=f"{source} is being fetched.")
        logger.info("model is being fetched", extra=fields(engine=self.name, source=source))
        size = await download(source, _Log(source).progress)
        logger.info("model fetched", extra=fields(engine=self.name, source=source, bytes=size))
        file = await asyncio.to_thread(find, source)
        if file is None:
            raise ModelError(f"{source} was fetched, and isn't there any more. Try again.")
        return file

    # The engine -----------------------------------------------------------------------------

    async def _load(self, file: Path) -> None:
        """
        Raises:
            ModelError: it can't run here.
        """
        self._began = time.monotonic()
        port = self._port if self._tls is None else None
        runner = Runner(self._spec.model, file, self._settings, port=port, key=self._info.key)
        self._runner = runner
        await runner.check()
        self._tell(
            state="loading",
            why="",
            memory=runner.memory,
            slots=runner.slots,
            context=runner.expected_context,
            kv_tokens=runner.kv_tokens if self._settings.task == "generate" else 0,
        )
        if not self._spec.gpus:  # on GPUs it takes their memory
            self._require_memory(runner.memory)
        if self._tls is not None:
            context = await asyncio.to_thread(server_context, self._tls)
            self._front = TlsFront(self._port.listen(), context, lambda: runner.socket)
            await self._front.start()
        await runner.start(self._apply)

    def _require_memory(self, need: int) -> None:
        """
        Raises:
            ModelError: it would be killed as soon as it has filled its memory.
        """
        free = available_memory()
        if need - need // 4 > free:  # the estimate may be high
            raise ModelError(
                f"{self._spec.model} needs about {need / _GB:.1f} GB of memory, and this machine "
                f"has {free / _GB:.1f} GB to give. Lower context, kv_tokens or cache_mib, or free "
                "some there."
            )

    def _apply(self) -> None:
        """Tell what its supervisor tells."""
        runner = self._runner
        assert runner is not None
        state = _STATES.get(runner.state)
        if state is None:  # it is being stopped
            return
        told: dict[str, Any] = {"state": state, "url": self._url(runner), "why": ""}
        if state == "ready":
            told["context"] = runner.context
            if self._info.state != "ready":
                told["seconds_to_ready"] = time.monotonic() - self._began
        elif state == "failed":
            told["why"] = runner.failure
        elif state == "restarting":
            told["why"] = f"The engine {self.name} died, and is being started again."
            if self._info.state != "restarting":
                self._began = time.monotonic()
        self._tell(**told)

    def _url(self, runner: Runner) -> str:
        """Where requests go; empty before it is known."""
        port = runner.endpoint.port if self._tls is None else self._port.number
        if not port:
            return ""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{in_url(self._port.host)}:{port}/v1"


class _Log:
    """Logs a download's progress, now and then."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._next = time.monotonic() + _PROGRESS

    def progress(self, done: int, total: int | None) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PROGRESS
        logger.info(
            "model is being fetched", extra=fields(source=self._source, bytes=done, of=total)
        )


def _own_file(path: Path) -> Path:
    """
    Raises:
        ModelError: it isn't here.
    """
    try:
        here = path.exists()
    except OSError as error:
        raise ModelError(f"{path} can't be used on this machine: {error.strerror}.") from None
    if not here:
        raise ModelError(
            f"{path} is not on this machine: put it there, or into a folder that all machines "
            "share."
        )
    return path
