"""Opens connections: name look-up, the quickest of a host's addresses, TLS, within one time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import aiohappyeyeballs
from aiohappyeyeballs.types import AddrInfoType

from reverie.backends.client.address import Address
from reverie.errors import BackendError, BackendTimeout, ConnectionLost

P = TypeVar("P", bound=asyncio.Protocol)

_NEXT_ADDRESS_AFTER = 0.25
"""Seconds until a host's next address is tried beside the first (RFC 8305)."""
_LOOK_UP_LASTS = 10.0
"""Seconds for which a host's addresses aren't looked up again."""


class Connector:
    """Opens connections to one server.

    Args:
        tls: checks its certificate; None: the system's authorities do.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._looking_up = asyncio.Lock()
        self._found: list[AddrInfoType] = []
        self._found_until = 0.0

    async def open(self, protocol: Callable[[], P]) -> P:
        """Connect, with a deadline of the caller's.

        Raises:
            OSError, RuntimeError: it can't be connected to. uvloop may raise the latter.
        """
        loop = asyncio.get_running_loop()
        address = self._address
        if address.socket is not None:
            _, made = await loop.create_unix_connection(protocol, address.socket)
            return made
        options: dict[str, Any] = {}
        if address.tls:
            # The first time, the system's authorities are read, which would hold up tokens.
            context = self._tls or await asyncio.to_thread(tls_context)
            options = {"ssl": context, "server_hostname": address.host}
        if address.is_numeric:
            _, made = await loop.create_connection(protocol, address.host, address.port, **options)
            return made
        # uvloop's ``create_connection`` tries one address after the other, however long that takes.
        addresses = await self._addresses()
        try:
            connected = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1
            )
        except (OSError, RuntimeError):
            self._found_until = 0.0  # it may have moved
            raise
        try:
            _, made = await loop.create_connection(protocol, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        return made

    async def _addresses(self) -> Sequence[AddrInfoType]:
        """The host's addresses, each in its turn the first: they share the connections.

        One look-up serves all who want it meanwhile, and for a short time.
        """
        clock = asyncio.get_running_loop().time
        async with self._looking_up:
            if self._found_until <= clock():
                self._found = list(await look_up(self._address.host, self._address.port))
                self._found_until = clock() + _LOOK_UP_LASTS
            else:
                self._found.append(self._found.pop(0))
            return tuple(self._found)


async def look_up(host: str, port: int) -> Sequence[AddrInfoType]:
    """The addresses of a name.

    Raises:
        OSError: it has none.
    """
    return await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )


def unreachable(error: Exception) -> BackendError:
    """The error for a connection that can't be had."""
    reason = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason += f", errno {error.errno}"
    return ConnectionLost("The model's backend can't be reached. Try again.", reason=reason)


def unreachable_in_time() -> BackendError:
    """The error for a connection that isn't there within its time."""
    return BackendTimeout(
        "The model's backend can't be reached in time. Try again.", reason="no connection in time"
    )


@cache
def tls_context() -> ssl.SSLContext:
    """Checks a server's certificate and its name, by the system's authorities."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def private_tls_context(authority: Path) -> ssl.SSLContext:
    """Checks that a server's certificate was signed by this authority, and no name.

    It is for machines that are reached by their addresses, whose authority signs for no others:
    whatever it signed is one of them.

    Raises:
        OSError: the file can't be read, or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cafile=authority)
    context.set_alpn_protocols(["http/1.1"])
    return context
