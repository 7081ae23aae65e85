"""One worker process, as its parent sees it: started, told what to serve, awaited, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from reverie.background import Loop
from reverie.gateway.siblings import Answer
from reverie.runner.process import how_it_ended
from reverie.workers.channel import Channel, ChannelClosed, Tell
from reverie.workers.messages import Began, Configuration, decode, encode


class Inherited(NamedTuple):
    """What a worker gets of its parent."""

    parent: int
    channel: int
    listeners: list[int]
    hands_on: bool
    """As ``server.Server`` has it."""


class WorkerProcess:
    """A worker.

    Args:
        number: no other worker had it.
        tells, answers: what to do about its messages.
    """

    def __init__(
        self, number: int, tells: Mapping[str, Tell], answers: Mapping[str, Answer]
    ) -> None:
        self.number = number
        self.started = False
        self.channel = Channel(tells, answers)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: Loop | None = None

    async def start(
        self,
        listeners: Sequence[socket.socket],
        configuration: Callable[[], Configuration],
        *,
        hands_on: bool,
    ) -> Began:
        """Start it; returns once it serves, or can't. The listeners are its own from now on.

        Args:
            configuration: gives the one in force. It is asked when the worker can be told of
                changes: one that came before would be missed.
            hands_on: as ``server.Server`` has it.
        """
        ours, theirs = socket.socketpair()
        try:
            handed = [theirs.fileno(), *(listener.fileno() for listener in listeners)]
            inherited = Inherited(os.getpid(), handed[0], handed[1:], hands_on)
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "reverie.workers.worker"),
                msgspec.json.encode(inherited).decode(),
                stdin=asyncio.subprocess.PIPE,  # ends when this process ends: see guard
                pass_fds=handed,
                start_new_session=True,  # Ctrl-C is for the parent alone, which drains
            )
        finally:
            theirs.close()
            for listener in listeners:
                listener.close()
        ours.setblocking(False)
        connected = asyncio.Event()
        self._reading = Loop("worker channel", lambda: self.channel.run(ours, connected))
        await connected.wait()
        try:
            began = decode(await self.channel.ask("start", encode(configuration())), Began)
        except ChannelClosed:
            status = await self._process.wait()
            return Began([f"A worker ended at its start, with {how_it_ended(status)}."], False)
        self.started = not began.problems
        return began

    async def wait(self) -> str:
        """Wait until it has ended; return how, in words."""
        assert self._process is not None
        status = await self._process.wait()
        self.started = False
        if self._reading is not None:
            await self._reading.stop()
        return how_it_ended(status)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid
