"""A URL says where to connect, and what requests name."""

from __future__ import annotations

import pytest

from reverie.backends.client.address import Address


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "authority"),
    [
        ("http://127.0.0.1:9100/v1", "127.0.0.1", 9100, False, "127.0.0.1:9100"),
        ("http://engine/v1", "engine", 80, False, "engine"),
        ("http://engine:80/v1", "engine", 80, False, "engine"),
        ("https://Engine.Example/v1", "engine.example", 443, True, "engine.example"),
        ("https://engine:8443", "engine", 8443, True, "engine:8443"),
        ("https://engine:80", "engine", 80, True, "engine:80"),
        ("http://[::1]/v1", "::1", 80, False, "[::1]"),
        ("http://[2001:db8::1]:8080/v1", "2001:db8::1", 8080, False, "[2001:db8::1]:8080"),
        (
            "http://b\u00fccher.example/",
            "xn--bcher-kva.example",
            80,
            False,
            "xn--bcher-kva.example",
        ),
    ],
)
def test_a_server_over_tcp(url: str, host: str, port: int, tls: bool, authority: str) -> None:
    address = Address.of(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert address.authority == authority
    assert address.socket is None


@pytest.mark.parametrize(
    ("url", "socket"),
    [("http+unix://%2Frun%2Fe.sock/v1", None), ("http://engine/v1", "/run/e.sock")],
)
def test_a_server_behind_a_unix_socket(url: str, socket: str | None) -> None:
    address = Address.of(url, socket)
    assert (address.socket, address.authority) == ("/run/e.sock", "engine")
    assert address.target("x") == "/v1/x"


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("http://e/v1", "chat/completions", "/v1/chat/completions"),
        ("http://e/v1/", "models", "/v1/models"),
        ("http://e", "models", "/models"),
        ("http://e/", "/health", "/health"),
        ("http://e/v1", "/health", "/health"),
        ("http://e/proxy/v1", "/health", "/proxy/health"),
        ("http://e/proxy", "/health", "/proxy/health"),
        ("http://e/mv1", "/health", "/mv1/health"),
        ("http://e/a b/\u00e9/%2F", "x", "/a%20b/%C3%A9/%2F/x"),
    ],
)
def test_what_a_request_asks_for(base: str, path: str, target: str) -> None:
    assert Address.of(base).target(path) == target


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http://:80/v1", "http://a:b/v1", "http://a:99999/v1", "ftp://a/v1", "engine/v1",
        "http+unix:///run/e.sock/v1", "http://" + "\u00e9" * 80 + ".example/", "http://[::1/v1",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Address.of(url)


@pytest.mark.parametrize(
    ("url", "numeric"), [("http://1.2.3.4", True), ("http://[::1]", True), ("http://e1", False)]
)
def test_an_ip_address_needs_no_look_up(url: str, numeric: bool) -> None:
    assert Address.of(url).is_numeric is numeric
