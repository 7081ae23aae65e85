"""Backends that are this server itself: what asks them waits for itself, and takes every slot."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from reverie.settings import Settings

_PORTS = {"http": 80, "https": 443}


def loops(settings: Settings) -> list[str]:
    """A sentence for each backend whose URL is this server's own address. Asks no name server."""
    server = settings.server
    return [
        f"model {model.name}: backends[{index}]: its URL is this server's own address, port "
        f"{server.port}: a request would wait for itself until it times out"
        for model in settings.models
        for index, backend in enumerate(model.backends)
        if _is_at(backend.url, server.host, server.port)
    ]


def _is_at(url: str, host: str, port: int) -> bool:
    parts = urlsplit(url)
    try:
        theirs = parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):  # a Unix socket, or a port that can't be used
        return False
    return theirs == port and parts.hostname is not None and _reaches(parts.hostname, host.lower())


def _reaches(name: str, host: str) -> bool:
    """Whether who connects to ``name`` comes to a listener on ``host``."""
    if name == host:
        return True
    theirs, ours = _addresses(name), _addresses(host)
    if any(address.is_unspecified for address in ours):
        return name == socket.gethostname().lower() or any(map(_is_here, theirs))
    return bool(theirs & ours)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(name: str) -> set[_Address]:
    """The addresses that a name is known to have without asking."""
    if name == "localhost":
        return {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return set()
    if address.is_unspecified:  # connecting to it is connecting to this machine
        return {address, *_addresses("localhost")}
    return {getattr(address, "ipv4_mapped", None) or address}


def _is_here(address: _Address) -> bool:
    """Whether it is one of this machine's: no other can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
