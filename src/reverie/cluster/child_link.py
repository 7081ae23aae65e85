"""A gateway's link to its cluster: keeps a child (``child``) that connects to it.

Rule: while the cluster or the child is away, what the manager told last holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence

import msgspec

from reverie import background
from reverie.cluster.messages import (
    Connected,
    Deploy,
    Disconnected,
    Down,
    Loads,
    Report,
    Reported,
    Up,
    View,
    Viewed,
    Wanted,
    encode,
)
from reverie.cluster.tls import TlsFiles
from reverie.cluster.token import read_token
from reverie.cluster.variables import child_variables
from reverie.errors import ConfigurationError
from reverie.ids import random_id
from reverie.log import fields
from reverie.runner.process import child_environment, how_it_ended
from reverie.settings import ClusterSettings

logger = logging.getLogger("reverie.cluster")

_SILENCE = 150.0
"""Seconds without a word after which a child hangs. To connect and to find a manager that is made
just then may take 105, and a poll 30."""
_BEHIND = 64 * 1024
"""Bytes that a child hasn't read, above which it gets no report: the next one replaces it."""
_LONGEST_LINE = 256 * 1024 * 1024
"""Of a view with tens of thousands of engines."""
_GRACE = 2.0
"""Seconds for a child to end by itself."""

_decode = msgspec.json.Decoder(Up).decode


class ChildLink:
    """See ``Link``.

    Args:
        environ: may hold the token. The child gets that, and of the rest what an engine does.
    """

    def __init__(self, settings: ClusterSettings, environ: Mapping[str, str] | None = None) -> None:
        self.gateway = f"{socket.gethostname()}-{random_id()[:8]}"
        self.view: View | None = None
        self.loads: Loads | None = None
        self.connected = False
        self.why = "The cluster has not been reached yet."
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._on_change: Callable[[], None] = lambda: None
        self._models: Sequence[Wanted] | None = None
        self._child: Process | None = None
        self._loop: background.Loop | None = None

    async def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._loop = background.Loop("link to the cluster", self._keep_child)

    def deploy(self, models: Sequence[Wanted]) -> None:
        self._models = models
        self._send(Deploy(self.gateway, list(models)))

    def report(self, report: Report) -> None:
        if not self._is_behind():
            self._send(Reported(report))

    async def stop(self) -> None:
        self._on_change = lambda: None
        if self._loop is not None:
            await self._loop.stop()

    async def _keep_child(self) -> None:
        pause = background.FIRST_PAUSE
        while True:
            if await self._run_child():
                pause = background.FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, background.LONGEST_PAUSE)

    async def _run_child(self) -> bool:
        """Run a child until it ends. True if it was connected."""
        try:
            token = read_token(self._settings.token_file, self._environ)
        except ConfigurationError as error:
            self._lost(f"{error.problems[0]}.")
            return False
        child = await self._spawn(token)
        try:
            self._child = child
            if self._models is not None:
                self.deploy(self._models)
            hearing = _Hearing(self._hear)
            await asyncio.gather(hearing.listen(child), _log(child))
        finally:
            self._child = None
            await _end(child)
        if not hearing.explained:
            how = how_it_ended(child.returncode or 0)
            self._lost(
                f"The process that connects to the cluster ended ({how}), and is started again."
            )
        return hearing.was_connected

    async def _spawn(self, token: str) -> Process:
        cluster = self._settings
        variables = child_variables(token, TlsFiles.of(cluster))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "reverie.cluster.child", cluster.address, str(os.getpid())),
            stdin=PIPE,  # ends when this process ends, and the child with it
            stdout=PIPE,
            stderr=PIPE,
            env=child_environment(self._environ) | variables,
            start_new_session=True,  # Ctrl-C is for the gateway alone, which drains first
            limit=_LONGEST_LINE,
        )

    def _send(self, message: Down) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(encode(message) + b"\n")  # nothing happens if it has ended

    def _is_behind(self) -> bool:
        if self._child is None or self._child.stdin is None:
            return True
        return self._child.stdin.transport.get_write_buffer_size() > _BEHIND

    def _hear(self, message: Up) -> None:
        if isinstance(message, Viewed):
            self.view = message.view
            self._on_change()
        elif isinstance(message, Loads):
            self.loads = message
            self._on_change()
        elif isinstance(message, Disconnected):
            self._lost(message.why)
        elif not self.connected:
            self.connected, self.why = True, ""
            logger.info(
                "connected to the cluster",
                extra=fields(
                    address=self._settings.address, reverie=message.reverie, ray=message.ray
                ),
            )
            self._on_change()

    def _lost(self, why: str) -> None:
        if not self.connected and why == self.why:
            return
        self.connected, self.why = False, why
        logger.warning(
            "not connected to the cluster",
            extra=fields(address=self._settings.address, reason=why),
        )
        self._on_change()


class _Hearing:
    """What one child says, from its start to its end."""

    def __init__(self, hear: Callable[[Up], None]) -> None:
        self._hear = hear
        self.was_connected = False
        self.explained = False
        """Whether the last that it said was why it isn't connected."""

    async def listen(self, child: Process) -> None:
        """Returns once it says nothing more. One that hangs is ended."""
        assert child.stdout is not None
        while True:
            try:
                async with asyncio.timeout(_SILENCE):
                    line = await child.stdout.readline()
            except TimeoutError:
                child.kill()
                continue
            if not line.endswith(b"\n"):
                return
            message = _decode(line)
            self.was_connected = self.was_connected or isinstance(message, Connected)
            self.explained = isinstance(message, Disconnected)
            self._hear(message)


async def _log(child: Process) -> None:
    """What Ray writes is for whoever looks for a fault in it."""
    assert child.stderr is not None
    async for line in child.stderr:
        logger.debug("ray", extra=fields(line=line.decode(errors="replace").strip()))


async def _end(child: Process) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(_GRACE):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
