"""A gateway's link to its cluster: keeps a child that connects to it (``child``).

While the cluster or the child is away, what the manager told last holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence

import msgspec

from reverie import background
from reverie.cluster.messages import (
    Connected,
    Deploy,
    Disconnected,
    Down,
    Report,
    Reported,
    Up,
    View,
    Wanted,
    encode,
)
from reverie.cluster.token import read_token
from reverie.cluster.variables import TOKEN, TlsFiles, tls_variables
from reverie.errors import ConfigurationError
from reverie.ids import random_id
from reverie.log import fields
from reverie.runner.process import child_environment
from reverie.settings import ClusterSettings

logger = logging.getLogger("reverie.cluster")

_SILENCE = 90.0
"""Seconds without a word after which a child hangs. A start takes it 60 at most, a poll 20."""
_BEHIND = 64 * 1024
"""Bytes that a child hasn't read, above which it gets no reports: each makes the last one void."""
_LONGEST_LINE = 256 * 1024 * 1024
_GRACE = 2.0
"""Seconds for a child to end by itself."""

_decode = msgspec.json.Decoder(Up).decode


class ChildLink:
    """See ``Link``.

    Args:
        environ: may hold the token; of the rest the child gets what an engine does.
    """

    def __init__(self, settings: ClusterSettings, environ: Mapping[str, str] | None = None) -> None:
        self.gateway = f"{socket.gethostname()}-{random_id()[:8]}"
        self.view: View | None = None
        self.connected = False
        self.why = "The cluster has not been reached yet."
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._on_change: Callable[[], None] = lambda: None
        self._models: Sequence[Wanted] | None = None
        self._child: Process | None = None
        self._loop: background.Loop | None = None
        self._logged: tuple[bool, str] | None = None
        self._stopped = False

    async def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._loop = background.Loop("link to the cluster", self._keep_child)

    def deploy(self, models: Sequence[Wanted]) -> None:
        self._models = list(models)
        self._send_deploy()

    def report(self, report: Report) -> None:
        self._send(Reported(report), unless_behind=True)

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
            self._child = child = await self._spawn()
        except ConfigurationError as error:
            self._heard(Disconnected(f"{error.problems[0]}."))
            return False
        was_connected = False
        try:
            if self._models is not None:
                self._send_deploy()
            errors = asyncio.ensure_future(_drain(child))
            try:
                was_connected = await self._listen(child)
            finally:
                errors.cancel()
        finally:
            self._child = None
            await _end(child)
        if self.connected:
            self._heard(Disconnected(_how_it_ended(child)))
        return was_connected
