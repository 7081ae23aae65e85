"""Proxies in front of this server that the operator trusts, and for whom they ask."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from reverie.http.connection.exchange import Scope

_HERE = "127.0.0.1"
"""The address of a peer that has none: it came over a Unix socket."""
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+)(?::\d+)?|([0-9A-Fa-f:.]+)")
"""An address, perhaps with a port; IPv6 in brackets or bare."""


class TrustedProxies:
    """Networks whose word about a caller counts."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(one, strict=False) for one in networks]

    def trust(self, address: str) -> bool:
        """True if a proxy at this address, which is one, is trusted."""
        found = ipaddress.ip_address(address.partition("%")[0])
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)

    def client_of(self, scope: Scope) -> str:
        """The address of the client: the last of those that the request came by which is no trusted
        proxy's. What stands before it in ``X-Forwarded-For`` may be made up."""
        client = peer_of(scope)
        if not self._networks or not self.trust(client):
            return client
        named = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = b",".join(named).decode("latin-1").split(",")
        for hop in reversed(hops):
            address = _address(hop.strip())
            if address is None:
                return client
            client = address
            if not self.trust(client):
                return client
        return client


def peer_of(scope: Scope) -> str:
    """The address of whoever is connected."""
    peer = scope.get("client")
    return _HERE if peer is None else str(peer[0])


def _address(hop: str) -> str | None:
    found = _NODE.fullmatch(hop)
    if found is None:
        return None
    try:
        return str(ipaddress.ip_address(next(filter(None, found.groups()))))
    except ValueError:
        return None
