from __future__ import annotations

import pytest

from reverie.http.connection.exchange import Scope
from reverie.http.trusted_proxies import TrustedProxies
from reverie.testing import ScriptedEngine
from tests.harness import StartGateway, chat

PROXIES = TrustedProxies(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"])


def scope(peer: str | None, *forwarded: str, **others: str) -> Scope:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    headers += [(name.encode(), value.encode()) for name, value in others.items()]
    return {"client": None if peer is None else (peer, 1), "headers": headers}


@pytest.mark.parametrize(
    ("asked", "client"),
    [
        (scope("203.0.113.9"), "203.0.113.9"),
        (scope("203.0.113.9", "198.51.100.1"), "203.0.113.9"),  # not trusted
        (scope("127.0.0.1"), "127.0.0.1"),
        (scope("127.0.0.1", "198.51.100.1"), "198.51.100.1"),
        (scope(None, "198.51.100.1"), "198.51.100.1"),  # over a Unix socket
        (scope("::ffff:10.0.0.1", "198.51.100.1"), "198.51.100.1"),
        (scope("127.0.0.1", "198.51.100.1, 10.0.0.2"), "198.51.100.1"),  # two proxies
        (scope("127.0.0.1", "198.51.100.1", "10.0.0.2"), "198.51.100.1"),
        (scope("127.0.0.1", "8.8.8.8, 198.51.100.1"), "198.51.100.1"),  # the client made one up
        (scope("127.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        (scope("127.0.0.1", "[2001:db9::1]:4711"), "2001:db9::1"),
        (scope("127.0.0.1", "198.51.100.1:4711"), "198.51.100.1"),
        (scope("127.0.0.1", "unknown"), "127.0.0.1"),
        (scope("127.0.0.1", "198.51.100.1, evil\r\nline, 10.0.0.2"), "10.0.0.2"),
        (scope("127.0.0.1", "9" * 100), "127.0.0.1"),
        (scope("127.0.0.1", ""), "127.0.0.1"),
        (scope("127.0.0.1", forwarded="for=8.8.8.8"), "127.0.0.1"),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_saw(asked: Scope, client: str) -> None:
    assert PROXIES.client_of(asked) == client


def test_nobody_is_trusted_by_default() -> None:
    assert TrustedProxies([]).client_of(scope("127.0.0.1", "8.8.8.8")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "client"), [(["127.0.0.1"], "198.51.100.1"), ([], "127.0.0.1")]
)
async def test_the_log_names_the_client(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    caplog: pytest.LogCaptureFixture,
    trusted: list[str],
    client: str,
) -> None:
    caplog.set_level("INFO", "reverie.request")
    gateway = await start_gateway(
        engine, server={"trusted_proxies": trusted}, environ={"REVERIE_API_KEYS": "k"}
    )
    headers = {"Authorization": "Bearer k", "X-Forwarded-For": "8.8.8.8, 198.51.100.1"}
    status, _, _ = await gateway.post(chat(), headers=headers)
    assert status == 200
    [line] = [one for one in caplog.records if one.getMessage() == "request"]
    assert line.fields["client"] == client  # type: ignore[attr-defined]
