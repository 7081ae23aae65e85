"""A gateway's child, ``python -P -m reverie.cluster.child ADDRESS PARENT``: its part of Ray.

It is a process of its own since Ray ends whoever has lost the cluster, and since it would take the
gateway 50 MB and 30 threads. It reads ``Down`` messages from standard input, a line each, and
writes ``Up`` messages. It ends with its input. Whenever it can't go on it says why, and ends too:
Ray can't begin anew in one process, so the gateway starts another.

The token and the names of the TLS files are in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import BinaryIO, NoReturn, Protocol, TypeAlias

import msgspec

from reverie.cluster.connection import ManagerAway, connect
from reverie.cluster.messages import (
    Connected,
    Deploy,
    Disconnected,
    Down,
    Loads,
    Report,
    Up,
    View,
    Viewed,
    encode,
)
from reverie.cluster.variables import tls_files, token_of
from reverie.errors import ClusterError
from reverie.runner.guard import die_with_parent
from reverie.threads import run_in_daemon_thread

POLL_SECONDS = 20.0
"""How long the manager may leave a poll open. Something is told to the gateway as often."""
AGAIN = 0.5
"""Seconds until a manager is asked again that didn't answer."""
GIVE_UP = 10.0
"""Seconds without a manager after which this process ends: another may find one."""

Tell: TypeAlias = Callable[[Up], None]

_decode = msgspec.json.Decoder(Down).decode


def main() -> None:
    address, parent = sys.argv[1], int(sys.argv[2])
    if sys.platform == "linux":  # elsewhere the end of standard input has to do
        die_with_parent(parent)
    upward = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # Ray writes to standard output, whatever it is told
    asyncio.run(_run(address, partial(_write, upward)))


async def _run(address: str, tell: Tell) -> NoReturn:
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    threading.Thread(target=inbox.read, args=(sys.stdin.buffer, loop), daemon=True).start()
    try:
        token, tls = token_of(os.environ), tls_files(os.environ)
        versions = await run_in_daemon_thread(lambda: connect(address, token, tls))
        from reverie.cluster.remote_manager import RemoteManager  # imports Ray: all is set now

        await Follower(tell, inbox, versions.ray, RemoteManager.find).run()
    except ClusterError as error:
        tell(Disconnected(str(error)))
    _end(1)


def _write(upward: BinaryIO, message: Up) -> None:
    try:
        upward.write(encode(message) + b"\n")
    except BrokenPipeError:
        _end(0)


def _end(status: int) -> NoReturn:
    """End at once: Ray's own end takes its time, and what it holds is gone with the process."""
    os._exit(status)


class Inbox:
    """The latest of each kind that the gateway told. Older ones don't matter any more."""

    def __init__(self) -> None:
        self._deploy: Deploy | None = None
        self._known = asyncio.Event()
        self._deployed = asyncio.Event()
        self._report: Report | None = None
        self._reported = asyncio.Event()

    def read(self, stream: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        """Read the gateway's lines until there are no more, and end the process. Blocks."""
        for line in stream:
            loop.call_soon_threadsafe(self.take, _decode(line))
        _end(0)

    def take(self, message: Down) -> None:
        if isinstance(message, Deploy):
            self._deploy = message
            self._known.set()
            self._deployed.set()
        else:
            self._report = message.report
            self._reported.set()

    async def gateway(self) -> str:
        """The gateway's name, once it has told it."""
        await self._known.wait()
        assert self._deploy is not None
        return self._deploy.gateway

    async def next_deploy(self) -> Deploy:
        """The latest that was not given yet."""
        await self._deployed.wait()
        self._deployed.clear()
        assert self._deploy is not None
        return self._deploy

    def deploy_again(self) -> None:
        """Give the latest another time."""
        if self._deploy is not None:
            self._deployed.set()

    async def next_report(self) -> Report:
        """The latest that was not given yet."""
        await self._reported.wait()
        self._reported.clear()
        assert self._report is not None
        return self._report


class Manager(Protocol):
    """What is asked of the manager: see ``RemoteManager``."""

    reverie: str

    async def deploy(self, deploy: Deploy) -> None: ...
    async def report(self, report: Report) -> Loads: ...
    async def view(self, gateway: str, incarnation: str, version: int, timeout: float) -> View: ...


class Follower:
    """Follows the manager for a gateway, through its restarts.

    Args:
        find: finds or makes the manager.
    """

    def __init__(
        self, tell: Tell, inbox: Inbox, ray_version: str, find: Callable[[], Awaitable[Manager]]
    ) -> None:
        self._tell = tell
        self._inbox = inbox
        self._ray_version = ray_version
        self._find = find
        self._away_since: float | None = None

    async def run(self) -> None:
        """
        Raises:
            ClusterError: it can't go on.
        """
        self._manager = await self._found()
        self._is_here()
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._poll, self._send_deploys, self._send_reports):
                    group.create_task(work())
        except* ClusterError as errors:
            failure = errors.exceptions[0]
        raise failure

    async def _poll(self) -> None:
        gateway = await self._inbox.gateway()
        incarnation, version = "", 0
        while True:
            try:
                view = await self._manager.view(gateway, incarnation, version, POLL_SECONDS)
            except ManagerAway as away:
                await self._is_away(away)
                if away.ended:
                    self._manager = await self._found()
                continue
            self._is_here()
            if (view.incarnation, view.version) == (incarnation, version):
                continue
            if incarnation not in ("", view.incarnation):
                self._inbox.deploy_again()  # another manager knows nothing of it
            incarnation, version = view.incarnation, view.version
            self._tell(Viewed(view))

    async def _send_deploys(self) -> None:
        while True:
            deploy = await self._inbox.next_deploy()
            try:
                await self._manager.deploy(deploy)
            except ManagerAway:
                await asyncio.sleep(AGAIN)
                self._inbox.deploy_again()

    async def _send_reports(self) -> None:
        while True:
            report = await self._inbox.next_report()
            with contextlib.suppress(ManagerAway):
                self._tell(await self._manager.report(report))

    async def _found(self) -> Manager:
        while True:
            try:
                return await self._find()
            except ManagerAway as away:
                await self._is_away(away)

    def _is_here(self) -> None:
        """Tell so each time, since a gateway gives up a child that tells nothing for long."""
        self._away_since = None
        self._tell(Connected(self._manager.reverie, self._ray_version))

    async def _is_away(self, away: ManagerAway) -> None:
        """Tell so, and wait until it may be asked again."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._tell(Disconnected(str(away)))
        elif now - self._away_since > GIVE_UP:
            raise ClusterError(str(away))
        await asyncio.sleep(AGAIN)


if __name__ == "__main__":
    main()
