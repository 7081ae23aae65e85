"""Whose word counts about where a request comes from, and which address that is.

Each proxy adds the address that it sees to the end of ``X-Forwarded-For``. So the list is read from
its end for as long as trusted proxies wrote it; what stands before that, anybody may have written.
``Forwarded`` isn't read: a proxy that doesn't know it passes on what its client made up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from reverie.http.connection.exchange import Scope

UNIX_PEER = "127.0.0.1"
"""A caller over a Unix socket is on this machine."""
_LONGEST = 64
"""Bytes of an address with a port."""
_NODE = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9A-Fa-f]*:[0-9A-Fa-f:.]+)|([^\s:\[\]]+)(?::\d+)?"
)
"""An address or a name, perhaps with a port; IPv6 in brackets or bare."""


def node_of(text: str) -> str | None:
    """The address or name that a proxy wrote, without its port; None: it is neither."""
    found = _NODE.fullmatch(text.strip())
    return None if found is None else next(filter(None, found.groups()))


def peer_of(scope: Scope) -> str:
    """The address at the other end of the connection."""
    client = scope.get("client")
    return UNIX_PEER if client is None else str(client[0])


class TrustedProxies:
    """The proxies whose word counts.

    Args:
        networks: their addresses.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(one, strict=False) for one in networks]

    def trusts(self, peer: str) -> bool:
        """True if the proxy at this address is one of them."""
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, scope: Scope) -> str:
        """The address of the client, as the last proxy says that is trusted."""
        client = peer_of(scope)
        if not self._networks or not self.trusts(client):
            return client
        lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for hop in reversed(b",".join(lines).decode("latin-1").split(",")):
            node = node_of(hop) if len(hop) <= _LONGEST else None
            address = None if node is None else _address(node)
            if address is None:  # nothing, or a name: the proxy that wrote it is all that is known
                break
            client = str(address)
            if not self.trusts(client):
                break
        return client


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A listener on "::" sees callers over IPv4 as ::ffff:10.0.0.7.
    return getattr(address, "ipv4_mapped", None) or address
