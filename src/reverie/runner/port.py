"""A port that one engine of this machine has to itself, also while it is started again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys

from reverie.errors import ModelError


class Port:
    """A port, once ``take`` was called, until ``release``.

    Other engines of Reverie on this machine leave it alone all that time, and the kernel gives it
    to nobody who asks for any. Somebody may still ask for it by its number while no engine listens.

    Args:
        host: the address that the engine listens on.
        ports: the first free one of these is taken; None: one that the kernel chooses.
    """

    def __init__(self, host: str, ports: range | None = None) -> None:
        self.host = host
        self.number = 0
        self._ports = ports
        self._held: list[socket.socket] = []

    def take(self) -> int:
        """The port to listen on now: the same as before, unless somebody else has it.

        Raises:
            ModelError: there is none, or ``host`` is no address of this machine.
        """
        try:
            if not self._held or not can_listen(self.host, self.number):
                self.release()
                self._find()
        except OSError as error:
            raise ModelError(self._why_not(error)) from None
        return self.number

    def listen(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            ModelError: as ``take``.
        """
        self.take()
        try:
            listener = _bound(self.host, self.number)
        except OSError as error:
            raise ModelError(self._why_not(error)) from None
        listener.listen(1024)
        return listener

    def release(self) -> None:
        """Let others have it. Idempotent."""
        for held in self._held:
            held.close()
        self._held = []

    def _find(self) -> None:
        for number in self._ports or (0,):
            try:
                bound = _bound(self.host, number)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES) or not self._ports:
                    raise
                continue
            self.number = bound.getsockname()[1]
            self._held.append(bound)
            if self._lock() and can_listen(self.host, self.number):
                return
            self.release()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _lock(self) -> bool:
        """Keep other engines off: False if one of them has it.

        Neither ``bind`` nor ``listen`` would tell while that one is being started. An abstract name
        is gone with its process, and holds where the port does: in this network namespace.
        """
        if sys.platform != "linux":
            return True
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0reverie-port-{self.host}-{self.number}")
        except OSError:
            lock.close()
            return False
        self._held.append(lock)
        return True

    def _why_not(self, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE and self._ports:
            first, last = self._ports[0], self._ports[-1]
            return f"No port from {first} to {last} of {self.host} is free: give engines more."
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            return f"{self.host} is no address of this machine."
        return f"There is no port to be had on {self.host}: {error.strerror}."


def can_listen(host: str, port: int) -> bool:
    """True if nobody listens there.

    Raises:
        OSError: ``host`` is no address of this machine.
    """
    try:
        with contextlib.closing(_bound(host, port)) as tried:
            tried.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _bound(host: str, port: int) -> socket.socket:
    """A socket that may stand there beside connections which have ended, and others like it."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
