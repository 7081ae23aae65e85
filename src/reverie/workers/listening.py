"""The addresses that all workers listen on.

On Linux each worker has a socket of its own there (``SO_REUSEPORT``), and the kernel spreads
connections over them by a hash. With one socket for all, whoever wakes first accepts all that wait,
so that a burst of connections would stay with one worker. When a worker dies its socket goes with
it, and new connections go to the others at once.

Elsewhere ``SO_REUSEPORT`` doesn't spread connections, so that workers share one socket. So they do
with a socket that the service manager handed over.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from reverie.addresses import OLLAMA_HOST, OLLAMA_PORT
from reverie.server import listen, listen_as_ollama
from reverie.systemd import host_and_port

_SPREADS = sys.platform == "linux"


class Address:
    """One address.

    Args:
        first: listens there, so that nobody else does.
        is_handed: it was handed over.
    """

    def __init__(self, first: socket.socket, *, is_handed: bool = False) -> None:
        self.host, self.port = host_and_port(first)
        self.is_handed = is_handed
        self._kept = first
        self._spreads = _SPREADS and not is_handed
        if self._spreads:
            # Bound, so that the port stays this server's; it doesn't listen, so that no connection
            # waits there.
            first.close()
            self._kept = socket.socket(first.family, socket.SOCK_STREAM)
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._kept.bind((self.host, self.port))

    def open(self) -> socket.socket:
        """A socket for one worker."""
        return listen(self.host, self.port, shared=True) if self._spreads else self._kept.dup()

    def close(self) -> None:
        self._kept.close()


def addresses(
    host: str, port: int, handed: Sequence[socket.socket], *, ollama: bool
) -> list[Address]:
    """The server's address, and Ollama's if it is asked for.

    Args:
        handed: sockets that were handed over, in place of the server's address.

    Raises:
        ConfigurationError: one is taken.
    """
    found = [Address(one, is_handed=True) for one in handed] or [Address(listen(host, port))]
    try:
        if ollama and (found[0].host, found[0].port) != (OLLAMA_HOST, OLLAMA_PORT):
            found.append(Address(listen_as_ollama()))
    except BaseException:
        for address in found:
            address.close()
        raise
    return found
