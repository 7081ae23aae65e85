"""What systemd hands over to a service, and is told by it: sockets, readiness, a watchdog.

The protocols are those of ``sd_listen_fds(3)``, ``sd_notify(3)`` and ``sd_watchdog_enabled(3)``,
which other service managers speak, too. Nothing happens where their variables aren't set. The
variables are taken out of the environment: what this process starts must take none of it for its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Generator, MutableMapping, Sequence

from reverie.errors import ConfigurationError
from reverie.log import fields

logger = logging.getLogger("reverie")

_FIRST = 3
"""The number of the first descriptor that is handed over."""
_MOST = 64
_NUMBER = re.compile("[0-9]{1,18}")
_SEND_TIMEOUT = 1.0
"""Seconds that a message may wait for the manager to read others."""


def take_sockets(environ: MutableMapping[str, str], *, first: int = _FIRST) -> list[socket.socket]:
    """The sockets that were handed over to this process, ready to accept connections.

    No child inherits them.

    Raises:
        ConfigurationError: one of them is of no use to this server.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()):  # not set, or they are its parent's
        return []
    if not _NUMBER.fullmatch(count) or int(count) > _MOST:
        raise ConfigurationError(
            [f"environment LISTEN_FDS: must be a number of sockets, at most {_MOST}"]
        )
    descriptors = range(first, first + int(count))
    taken: list[socket.socket] = []
    problems = []
    for descriptor in descriptors:
        try:
            os.set_inheritable(descriptor, False)
            taken.append(socket.socket(fileno=descriptor))
        except OSError as error:
            problems.append(f"it is no socket ({error.strerror})")
            continue
        if problem := _why_useless(taken[-1]):
            problems.append(problem)
    if problems:
        for listener in taken:
            listener.close()
        raise ConfigurationError(
            [
                f"a socket that was handed over can't be served on: {problem}; in the socket's "
                "unit, write ListenStream= alone, and Accept=no"
                for problem in problems
            ]
        )
    for listener in taken:
        listener.setblocking(False)
    return taken


def _why_useless(given: socket.socket) -> str | None:
    if given.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "it is neither of TCP nor a Unix socket"
    if given.type != socket.SOCK_STREAM:
        return "it is no stream"
    if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it doesn't listen: it is one connection"
    return None


def host_and_port(listener: socket.socket) -> tuple[str, int]:
    """Where it listens; of a Unix socket, its path and 0. An abstract one begins with ``@``."""
    address = listener.getsockname()
    if listener.family != socket.AF_UNIX:
        return address[0], address[1]
    path = address.decode(errors="replace") if isinstance(address, bytes) else address
    return path.replace("\0", "@", 1), 0


def most_public(
    listeners: Sequence[socket.socket], is_loopback: Callable[[str], bool]
) -> tuple[str, int]:
    """Host and port of the socket that most callers can reach. A Unix socket is this machine's."""
    found = [host_and_port(one) for one in listeners if one.family != socket.AF_UNIX]
    public = [one for one in found if not is_loopback(one[0])]
    return next(iter(public or found), ("127.0.0.1", 0))


class Notifier:
    """Tells the service manager how this process does.

    Args:
        environ: holds what the manager wants to be told, and where.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        is_watched = _NUMBER.fullmatch(microseconds) and pid in ("", str(os.getpid()))
        self._watchdog = int(microseconds) / 1e6 if is_watched else 0.0
        self._is_ready = False

    @property
    def is_watched(self) -> bool:
        """True if the manager ends this process once it says no more that it is alive."""
        return bool(self._address) and self._watchdog > 0

    def ready(self) -> None:
        """Requests can be served."""
        self._is_ready = True
        self._tell("READY=1", "STATUS=Ready")

    def stopping(self) -> None:
        """The end has begun."""
        self._is_ready = False
        self._tell("STOPPING=1", "STATUS=Draining: what runs may finish")

    @contextlib.contextmanager
    def reloading(self) -> Generator[None]:
        """The configuration is read again in this block."""
        if not self._is_ready:  # it would be ready after it, for the manager
            yield
            return
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            if self._is_ready:
                self._tell("READY=1")

    async def watch(self) -> None:
        """Say again and again that the event loop turns, if anyone wants to know."""
        while self.is_watched:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 3)

    def _tell(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(_SEND_TIMEOUT)
                sending.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            logger.warning(
                "the service manager can't be told",
                extra=fields(said=lines[0], reason=error.strerror or str(error)),
            )


SILENT = Notifier({})
"""Tells nobody."""
