"""A connection is opened to the right server, or not at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reverie.backends.client import connecting
from reverie.backends.client.address import Address
from reverie.backends.client.pool import Pool
from reverie.backends.transport import Transport
from reverie.errors import BackendError, BackendTimeout, ConnectionLost
from tests.backends.peers import Peer, Serve, answer_all

pytestmark = pytest.mark.integration

CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def tls() -> ssl.SSLContext:
    """A server's, that shows a certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the system's authorities be the one that signed it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    connecting.tls_context.cache_clear()
    yield
    connecting.tls_context.cache_clear()


async def ask(url: str, connect_timeout: float = 5.0, seconds: float = 10.0) -> bytes:
    """The answer to a request on a connection of its own."""
    transport = Transport(url, headers={}, connect_timeout=connect_timeout, socket=None)
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        async with transport.post("x", b"12345", deadline) as response:
            return await response.read_all(1000, deadline)
    finally:
        await transport.close()


@pytest.mark.usefixtures("trusted")
async def test_a_server_over_tls(serve: Serve, tls: ssl.SSLContext) -> None:
    peers = await serve(answer_all, tls=tls)
    assert await ask(f"https://localhost:{peers.port}/v1") == b"5"


@pytest.mark.usefixtures("trusted")
async def test_the_name_is_told_before_the_certificate_is_shown(
    serve: Serve, tls: ssl.SSLContext
) -> None:
    names: list[Any] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    peers = await serve(answer_all, tls=tls)
    await ask(f"https://localhost:{peers.port}/v1")
    assert names == ["localhost"]


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name_is_refused(serve: Serve, tls: ssl.SSLContext) -> None:
    peers = await serve(answer_all, tls=tls)
    with pytest.raises(ConnectionLost, match="can't be reached") as caught:
        await ask(f"https://127.0.0.1:{peers.port}/v1")
    assert caught.value.reason.startswith("SSLCertVerificationError")


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Serve, tls: ssl.SSLContext
) -> None:
    peers = await serve(answer_all, tls=tls)
    with pytest.raises(ConnectionLost, match="can't be reached"):
        await ask(f"https://localhost:{peers.port}/v1")


async def test_a_server_that_does_not_shake_hands_in_time(serve: Serve) -> None:
    async def handler(peer: Peer) -> None:
        await peer.client_left()

    peers = await serve(handler)
    with pytest.raises(BackendTimeout, match="can't be reached in time"):
        await ask(f"https://localhost:{peers.port}/v1", connect_timeout=0.1)
    await peers.wait_for_open(0)


async def test_the_requests_own_deadline_may_come_first(serve: Serve) -> None:
    async def handler(peer: Peer) -> None:
        await peer.client_left()

    peers = await serve(handler)
    with pytest.raises(BackendTimeout):
        await ask(f"https://localhost:{peers.port}/v1", connect_timeout=60.0, seconds=0.1)
    await peers.wait_for_open(0)


async def test_a_server_on_ipv6(serve: Serve) -> None:
    peers = await serve(answer_all, host="::1")
    assert await ask(peers.url) == b"5"


async def test_the_next_of_a_names_addresses_is_tried(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = await serve(answer_all)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and doesn't listen
        stream = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        found = [(*stream, closed.getsockname()), (*stream, ("127.0.0.1", peers.port))]

        async def look_up(_host: str, _port: int) -> Any:
            return found

        monkeypatch.setattr(connecting, "look_up", look_up)
        assert await ask("http://engine.example/v1") == b"5"
        found.pop()
        with pytest.raises(ConnectionLost, match="can't be reached") as caught:
            await ask("http://engine.example/v1")
    assert caught.value.reason.startswith("ConnectionRefusedError, errno ")


async def test_connections_to_a_name_share_one_look_up_and_its_addresses(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.client_left()

    one, two = await serve(handler), await serve(handler)
    looked_up = 0

    async def look_up(_host: str, _port: int) -> Any:
        nonlocal looked_up
        looked_up += 1
        await asyncio.sleep(0.01)
        stream = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*stream, ("127.0.0.1", peers.port)) for peers in (one, two)]

    monkeypatch.setattr(connecting, "look_up", look_up)
    pool = Pool(Address.of("http://engine.example/v1"), connect_timeout=5.0, reuses=True)
    deadline = asyncio.get_running_loop().time() + 10.0
    await asyncio.gather(*(pool.connect(deadline) for _ in range(8)))
    await one.wait_for_open(4)
    await two.wait_for_open(4)
    assert looked_up == 1
    monkeypatch.setattr(connecting, "_LOOK_UP_LASTS", 0.0)
    await pool.close()
    pool = Pool(Address.of("http://engine.example/v1"), connect_timeout=5.0, reuses=True)
    for _ in range(2):
        await pool.connect(deadline)
    assert looked_up == 3
    await pool.close()


async def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionLost) as caught:
            await ask(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
    assert caught.value.reason.startswith("ConnectionRefusedError, errno ")


async def test_a_name_that_nobody_has() -> None:
    with pytest.raises(BackendError, match="can't be reached"):
        await ask("http://engine.invalid/v1")
