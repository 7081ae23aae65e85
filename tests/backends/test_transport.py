"""Requests go out whole and once, and nothing of them is left behind, whenever they are left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reverie.backends.transport import Transport
from reverie.errors import BackendError, BackendTimeout, ConnectionLost
from reverie.testing import Script, ScriptedEngine
from tests.backends.peers import HEAD, Peer, Serve, answer_all

pytestmark = pytest.mark.integration

Open = Callable[..., Transport]
CHAT = b'{"messages":[{"role":"user","content":"Hi"}],"stream":true}'


@pytest.fixture
async def open_transport() -> AsyncIterator[Open]:
    """``open_transport(url)``: a transport that is closed at the end."""
    opened: list[Transport] = []

    def open_transport(url: str, **headers: str) -> Transport:
        opened.append(Transport(url, headers=headers, connect_timeout=5.0, socket=None))
        return opened[-1]

    yield open_transport
    for transport in opened:
        await transport.close()


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def answer(transport: Transport, body: bytes = b"", path: str = "x") -> bytes:
    async with transport.post(path, body, soon()) as response:
        return await response.read_all(10_000_000, soon())


async def test_what_is_sent(serve: Serve, open_transport: Open) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(peer: Peer) -> None:
        for _ in range(3):
            seen.append(await peer.request())
            peer.send(HEAD % 0)

    peers = await serve(handler)
    transport = open_transport(peers.url, Accept="*/*")
    await answer(transport, b"{}", "chat/completions")
    await answer(transport, b"", "/tokenize")
    status, _ = await open_transport(peers.url).get("/health", 10.0)
    assert status == 200
    host = b"Host: 127.0.0.1:%d\r\n" % peers.port
    assert seen == [
        (
            b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Accept: */*\r\n"
            b"Content-Length: 2\r\n\r\n",
            b"{}",
        ),
        (
            b"POST /tokenize HTTP/1.1\r\n" + host + b"Accept: */*\r\nContent-Length: 0\r\n\r\n",
            b"",
        ),
        (b"GET /health HTTP/1.1\r\n" + host + b"\r\n", b""),
    ]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\x00b", "k\u00e9y"])
def test_a_header_of_more_than_a_line_is_never_sent(value: str) -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        Transport("http://e/", headers={"Authorization": value}, connect_timeout=1.0, socket=None)
    assert value not in str(caught.value)


async def test_headers_of_the_answer_in_any_case(serve: Serve, open_transport: Open) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(
            b"HTTP/1.1 429 Slow\r\nRETRY-after: 7\r\nContent-Type: Text/HTML; charset=x\r\n"
            b"Content-Length: 0\r\nX-Name: caf\xe9\r\n\r\n"
        )

    transport = open_transport((await serve(handler)).url)
    async with transport.post("x", b"", soon()) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "7"
        assert response.headers.get("retry-AFTER") == "7"
        assert response.headers.get("nothing") is None
        assert response.headers["x-name"] == "caf\u00e9"
        assert response.content_type == "text/html"
        assert len(response.headers) == len(list(response.headers)) == 4


async def test_many_requests_share_few_connections(serve: Serve, open_transport: Open) -> None:
    peers = await serve(answer_all)
    transport = open_transport(peers.url)
    for size in (0, 1, 70_000, 1_000_000, 3):
        assert await answer(transport, bytes(size)) == b"%d" % size
    assert peers.opened == 1
    await asyncio.gather(*(answer(transport) for _ in range(20)))
    assert peers.opened <= 20
    opened = peers.opened
    await asyncio.gather(*(answer(transport) for _ in range(20)))
    assert peers.opened == opened


@pytest.mark.parametrize("close", [True, False])
async def test_a_request_that_meets_the_close_of_its_connection_is_sent_again(
    serve: Serve, open_transport: Open, close: bool
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 2 + b"ok")
        await peer.request()
        if peers.opened > 1:
            peer.send(HEAD % 2 + b"ok")
        elif not close:
            peer.reset()

    peers = await serve(handler)
    transport = open_transport(peers.url)
    for opened in (1, 2, 2):
        assert await answer(transport) == b"ok"
        assert peers.opened == opened


async def test_a_request_is_sent_again_once(serve: Serve, open_transport: Open) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if peers.opened == 1:
            peer.send(HEAD % 0)
            await peer.request()

    peers = await serve(handler)
    transport = open_transport(peers.url)
    await answer(transport)
    with pytest.raises(ConnectionLost, match="unanswered"):
        await answer(transport)
    assert peers.opened == 2


@pytest.mark.parametrize("begun", [b"H", HEAD % 5, HEAD % 5 + b"ab"])
async def test_a_request_whose_answer_has_begun_is_never_sent_again(
    serve: Serve, open_transport: Open, begun: bytes
) -> None:
    asked = 0

    async def handler(peer: Peer) -> None:
        nonlocal asked
        await peer.request()
        peer.send(HEAD % 0)
        await peer.request()
        asked += 1
        peer.send(begun)

    peers = await serve(handler)
    transport = open_transport(peers.url)
    await answer(transport)
    with pytest.raises(ConnectionLost):
        async with transport.post("x", b"", soon()) as response:
            while await response.read(soon()):
                pass
    assert (asked, peers.opened) == (1, 1)


async def test_a_silent_request_is_never_sent_again(serve: Serve, open_transport: Open) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 0)
        await peer.client_left()

    peers = await serve(handler)
    transport = open_transport(peers.url)
    await answer(transport)
    with pytest.raises(BackendTimeout, match="did not answer in time"):
        async with transport.post("x", b"", soon(0.05)):
            pytest.fail("there is no response")
    assert peers.opened == 1
    await peers.wait_for_open(0)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
async def test_an_answer_that_is_compressed_unasked_is_refused(
    serve: Serve, open_transport: Open, coding: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n" % coding.encode())
        peer.send(b"Content-Length: 2\r\n\r\nab")
        await peer.client_left()

    peers = await serve(handler)
    with pytest.raises(BackendError, match="compressed"):
        await answer(open_transport(peers.url))
    await peers.wait_for_open(0)


async def test_an_error_that_is_compressed_keeps_its_status(
    serve: Serve, open_transport: Open
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 503 No\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab")

    async with open_transport((await serve(handler)).url).post("x", b"", soon()) as response:
        assert response.status == 503


async def test_another_protocol_is_refused(serve: Serve, open_transport: Open) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        await peer.client_left()

    with pytest.raises(ConnectionLost, match="unanswered") as caught:
        await answer(open_transport((await serve(handler)).url))
    assert caught.value.reason == "malformed response: another protocol"


async def test_a_response_that_was_left_reads_nothing_of_the_next(
    serve: Serve, open_transport: Open
) -> None:
    transport = open_transport((await serve(answer_all)).url)
    async with transport.post("x", b"12345", soon()) as first:
        assert await first.read(soon()) == b"5"
    assert first.at_end
    async with transport.post("x", b"1", soon()) as second:
        with pytest.raises(ConnectionLost):
            await first.read(soon())
        first.close()
        assert await second.read(soon()) == b"1"


async def test_a_get_has_a_connection_of_its_own(serve: Serve, open_transport: Open) -> None:
    peers = await serve(answer_all)
    transport = open_transport(peers.url)
    await answer(transport)
    assert await transport.get("/health", 10.0) == (200, b"0")
    assert peers.opened == 2
    await peers.wait_for_open(1)


async def test_a_get_gives_what_comes_of_a_body_at_once(serve: Serve, open_transport: Open) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 9 + b"abc")
        await peer.client_left()

    peers = await serve(handler)
    assert await open_transport(peers.url).get("/health", 10.0) == (200, b"abc")
    await peers.wait_for_open(0)


async def ask(transport: Transport, body: bytes) -> None:
    async with transport.post("chat/completions", body, soon()) as response:
        while await response.read(soon()):
            pass


@pytest.mark.parametrize("kind", ["fresh", "reused", "large", "socket", "https", "named", "get"])
async def test_a_request_can_be_left_at_any_moment(
    open_transport: Open, tmp_path: Path, kind: str
) -> None:
    """Nothing stays open but what can be used again, and the next request is answered."""
    socket = tmp_path / "e.sock" if kind == "socket" else None
    body = CHAT if kind != "large" else CHAT[:-1] + b" " * 2_000_000 + b"}"
    async with ScriptedEngine(Script(tokens=("a", "b", "c")), socket=socket) as engine:
        url = engine.url
        if kind == "https":
            url = url.replace("http:", "https:")
        if kind in ("named", "https"):
            url = url.replace("127.0.0.1", "localhost")
        finished = 0
        for turns in range(60):
            transport = open_transport(url)
            if kind == "reused":
                await ask(transport, body)
            leaving = asyncio.create_task(
                transport.get("models", 10.0) if kind == "get" else ask(transport, body)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            try:
                await leaving
                finished += 1
            except (asyncio.CancelledError, ConnectionLost):
                pass
            if kind != "https":
                await ask(transport, body)
            await transport.close()
            await engine.wait_for(lambda e: e.connections == 0)
        assert finished < 60


async def test_closing_at_any_moment_ends_what_runs(open_transport: Open) -> None:
    async with ScriptedEngine(Script(tokens=("a", "b"), stall_after=1)) as engine:
        for turns in range(30):
            transport = open_transport(engine.url)
            running = asyncio.create_task(ask(transport, CHAT))
            for _ in range(turns):
                await asyncio.sleep(0)
            await transport.close()
            async with asyncio.timeout(10):
                with pytest.raises(BackendError):
                    await running
            await engine.wait_for(lambda e: e.connections == 0)
