"""The server's own address: who can reach it, and which backends lead back to it."""

from __future__ import annotations

import socket

import pytest

from reverie.addresses import is_loopback, own_backends, require_keys
from reverie.errors import ConfigurationError
from reverie.settings import ServerSettings, Settings


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1", "localhost", "LOCALHOST"],
)
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.com", "", "localhost.evil.com"],
)
def test_hosts_that_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_that_others_can_reach_needs_a_key_or_no_auth() -> None:
    public = ServerSettings(host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="no API key is set"):
        require_keys(public, keyless=True)
    require_keys(public, keyless=False)
    require_keys(public.model_copy(update={"no_auth": True}), keyless=True)
    require_keys(ServerSettings(host="127.0.0.1"), keyless=True)


def found(host: str, url: str, port: int = 8000) -> list[str]:
    other = {"url": "http://10.0.0.5:8000"}
    model = {"name": "m", "backends": [other, {"url": url, "kind": "livepeer"}]}
    return own_backends(
        Settings.model_validate({"server": {"host": host, "port": port}, "models": [model]})
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("127.0.0.1", "http://localhost:8000"),
        ("localhost", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://0.0.0.0:8000"),
        ("::1", "http://[::1]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://LOCALHOST:8000"),
        ("0.0.0.0", "http://127.0.0.2:8000"),
        ("", "http://127.0.0.1:8000"),
        ("0.0.0.0", f"http://{socket.gethostname()}:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("Gateway.example", "http://gateway.example:8000"),
        ("gateway.example", "https://gateway.example:8000"),
    ],
)
def test_a_url_that_leads_back_here_is_found(host: str, url: str) -> None:
    (sentence,) = found(host, url)
    assert sentence.startswith("model m: backends[1]: its URL is this server's own address")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("127.0.0.1", "http://127.0.0.2:8000"),
        ("127.0.0.1", "http://elsewhere:8000"),
        ("0.0.0.0", "http://192.0.2.1:8000"),
        ("0.0.0.0", "http://elsewhere.example:8000"),
        ("127.0.0.1", "http+unix://%2Ftmp%2Fengine.sock"),
        ("127.0.0.1", "http://127.0.0.1:99999"),
    ],
)
def test_any_other_is_not(host: str, url: str) -> None:
    assert found(host, url) == []


def test_a_port_may_be_that_of_the_scheme() -> None:
    assert len(found("127.0.0.1", "http://127.0.0.1/v1", port=80)) == 1
    assert found("127.0.0.1", "https://127.0.0.1/v1", port=80) == []
