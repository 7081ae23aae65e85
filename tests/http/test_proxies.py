"""For whom a request is made, by the word of proxies that are trusted."""

from __future__ import annotations

import pytest

from reverie.http.connection.exchange import Scope
from reverie.http.proxies import TrustedProxies

TRUSTED = TrustedProxies(["127.0.0.0/8", "::1", "10.0.0.0/8"])


def scope(peer: str | None, *forwarded: str) -> Scope:
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    return {"headers": headers, "client": None if peer is None else (peer, 1)}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # anybody can claim that
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        (None, ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1.2.3.4, 198.51.100.1, 10.0.0.9"], "198.51.100.1"),
        ("127.0.0.1", ["1.2.3.4", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4, \xff"], "127.0.0.1"),
        ("127.0.0.1", ['1.2.3.4" 200'], "127.0.0.1"),
        ("127.0.0.1", ["999.0.0.1"], "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    peer: str | None, forwarded: list[str], client: str
) -> None:
    assert TRUSTED.client_of(scope(peer, *forwarded)) == client


def test_without_trusted_proxies_it_is_whoever_is_connected() -> None:
    assert TrustedProxies([]).client_of(scope("127.0.0.1", "198.51.100.1")) == "127.0.0.1"
