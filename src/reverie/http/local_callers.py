"""Which callers are on this machine.

The peer's address doesn't prove that by itself: a web page in a browser here could reach the port
under a name of its own (DNS rebinding) or from its own origin, so both names must be this machine's
too. And a proxy here passes on what comes from elsewhere: what a proxy sent isn't local, unless the
operator trusts it to say where it came from. A Livepeer orchestrator never says: it removes
``X-Forwarded-For`` and names itself by the host it calls, so what it sent is never local.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from reverie.addresses import is_loopback
from reverie.http.connection.exchange import Headers, Scope, header
from reverie.http.proxies import TrustedProxies, peer_of


class LocalCallers:
    """Tells the callers that are on this machine.

    Args:
        trusted_proxies: networks of proxies whose word counts.
        allows_origin: tells whether the operator lets pages of an origin call.
    """

    def __init__(
        self, trusted_proxies: Sequence[str], allows_origin: Callable[[bytes], bool]
    ) -> None:
        self._proxies = TrustedProxies(trusted_proxies)
        self._allows_origin = allows_origin

    def have_sent(self, scope: Scope) -> bool:
        """True if the peer, all whom it speaks for, and the names used for us are this machine."""
        peer = peer_of(scope)
        if not is_loopback(peer):
            return False
        forwarding = [one for one in scope["headers"] if one[0] not in _USUAL]
        if any(name.startswith(_ORCHESTRATED) for name, _ in forwarding):
            return False
        forwarding = [one for one in forwarding if _FORWARDING.fullmatch(one[0])]
        if forwarding and not (self._proxies.trust(peer) and _is_all_local(forwarding)):
            return False
        origin = header(scope, b"origin")
        names = [_host_of(b"//" + (header(scope, b"host") or b"localhost"))]
        if origin is not None and not self._allows_origin(origin):
            names.append(_host_of(origin))
        return all(map(is_loopback, names))


_ORCHESTRATED = (b"livepeer-runner-", b"livepeer-session-")
"""What the headers' names begin with by which an orchestrator marks what it passes on. It sets
them itself, whatever its caller sent."""
_FORWARDING = re.compile(
    rb"(?:x-)?forwarded(?:-.+)?|.+-forwarded-.+"
    rb"|(?:.+-)?(?:client|connecting|connection|originating|real|remote|socket|user)-?ip(?:v6)?"
    rb"|x-(?:proxyuser-ip|remote-addr|envoy-external-address|(?:original-)?host)"
    rb"|via|cdn-loop|cf-ray"
)
"""Names of the headers that only a proxy sends."""
_USUAL = frozenset(
    b"accept accept-encoding accept-language authorization connection content-length content-type "
    b"host origin user-agent".split()
)
"""Names of headers that clients send themselves, and that need no closer look."""
_NAMING = re.compile(rb".+(?:-for|host|ip|ipv6|addr|address)")
"""Those among them that list for whom it asks, and under which name."""
_FORWARDED = re.compile(r'\b(?:for|host)\s*=\s*"?([^;,"]*)', re.IGNORECASE)
"""Whom ``Forwarded`` names (RFC 7239)."""


def _is_all_local(headers: Headers) -> bool:
    """True if proxies' headers name somebody, and all whom they name are this machine."""
    named: list[str] = []
    for name, value in headers:
        text = value.decode("latin-1")
        if name in (b"forwarded", b"x-forwarded"):
            named += _FORWARDED.findall(text)
        elif _NAMING.fullmatch(name):
            named += text.split(",")
    return bool(named) and all(map(_is_local_node, named))


_NODE = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9A-Fa-f]*:[0-9A-Fa-f:.]+)|([^\s:\[\]]+)(?::\d+)?"
)
"""An address or a name, perhaps with a port; IPv6 in brackets or bare."""


def _is_local_node(text: str) -> bool:
    found = _NODE.fullmatch(text.strip())
    return found is not None and is_loopback(next(filter(None, found.groups())))


def _host_of(url: bytes) -> str:
    return _known_host_of(url) if len(url) <= _LONGEST_ORIGIN else ""


@lru_cache(maxsize=256)
def _known_host_of(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


_LONGEST_ORIGIN = 300
"""Bytes of a URL that is no more than a scheme, a host and a port."""
