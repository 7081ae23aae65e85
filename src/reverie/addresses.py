"""The server's own address: who can reach it, and which backends lead back to it."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from reverie.errors import ConfigurationError
from reverie.settings import ServerSettings, Settings

OLLAMA_HOST = "127.0.0.1"
OLLAMA_PORT = 11434
"""Where Ollama's clients look for it."""
_LONGEST_HOST = 255
_PORTS = {"http": 80, "https": 443}
_WILDCARDS = frozenset(("", "0.0.0.0", "::"))
_LOCAL = _WILDCARDS | {"localhost", "127.0.0.1", "::1"}
"""Hosts by which a client on this machine reaches a listener on any of the same hosts."""


def is_loopback(host: str) -> bool:
    """True if a host name or address means this machine only."""
    return len(host) <= _LONGEST_HOST and _is_loopback(host)


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        # A listener on "::" sees callers over IPv4 as ::ffff:127.0.0.1.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.localdomain") or host.endswith(".localhost")


def require_keys(settings: ServerSettings, *, keyless: bool) -> None:
    """Refuse an address that other machines can reach while callers need no key.

    Raises:
        ConfigurationError
    """
    if keyless and not is_loopback(settings.host) and not settings.no_auth:
        raise ConfigurationError(
            [
                f"server.host: {settings.host} can be reached from other machines, and no "
                "API key is set: set REVERIE_API_KEYS, create a key (reverie keys create), or pass "
                "--no-auth to serve everyone"
            ]
        )


def own_backends(settings: Settings) -> list[str]:
    """A sentence for each backend whose URL is this server's own address.

    A request sent there waits for itself, and takes every slot. Hosts and ports are compared as
    they are written: another name or address of this machine isn't recognised.
    """
    server = settings.server
    return [
        f"model {model.name}: backends[{index}]: its URL is this server's own address, port "
        f"{server.port}: a request would wait for itself until it times out"
        for model in settings.models
        for index, backend in enumerate(model.backends)
        if _is_at(backend.url, server.host.lower(), server.port)
    ]


def _is_at(url: str, host: str, port: int) -> bool:
    """True if ``url`` leads to a listener on ``host`` and ``port``."""
    parts = urlsplit(url)
    try:
        url_port = parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):  # a Unix socket, or a port out of range
        return False
    name = parts.hostname or ""
    if url_port != port or not name:
        return False
    if host in _WILDCARDS and (is_loopback(name) or name == socket.gethostname().lower()):
        return True
    return name == host or (name in _LOCAL and host in _LOCAL)
