"""One connection, with a client that is hostile, old, slow or gone: nobody else pays for it."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from reverie.errors import Overloaded
from reverie.http.connection import protocol
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

KEYED = {"REVERIE_API_KEYS": "right"}
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(body: object, *headers: str) -> bytes:
    """The bytes of a request."""
    data = json.dumps(body).encode()
    lines = ["POST /llm HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Peer:
    """One connection, and whatever is sent over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next answer's status and body; the body must have a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything until the connection is closed, in whichever way."""
        received = bytearray()
        try:
            async with asyncio.timeout(10):
                while data := await self.reader.read(65536):
                    received += data
        except ConnectionError:
            pass
        self.writer.transport.abort()
        return bytes(received)


async def connect(gateway: Gateway) -> Peer:
    host, port = gateway.url.removeprefix("http://").split(":")
    return Peer(*await asyncio.open_connection(host, int(port)))


def has_complaints(caplog: pytest.LogCaptureFixture) -> bool:
    return any(line.levelname == "ERROR" or line.exc_info for line in caplog.records)


async def test_requests_sent_ahead_are_answered_in_their_order(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.scripts = [Script(tokens=(text,), first_delay=0.01) for text in "abc"]
    peer = await connect(gateway)
    await peer.send(post(chat()) * 3)
    for text in "abc":
        status, body = await peer.answer()
        assert status == 200
        assert json.loads(body)["choices"][0]["message"]["content"] == text
    peer.writer.close()


async def test_a_request_that_was_sent_ahead_is_not_told_to_an_engine_as_the_one_before_it(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, backend={"kind": "vllm"}, traces={"endpoint": "http://127.0.0.1:9"}
    )
    peer = await connect(gateway)
    body = json.dumps({"content": "Hi"}).encode()
    head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    await peer.send(post(chat(stream=False)) + head.encode() + body)
    answers = [await peer.answer() for _ in range(2)]
    peer.writer.close()
    assert [status for status, _ in answers] == [200, 200], answers
    first, second = engine.requests
    assert "traceparent" in first.headers
    assert "traceparent" not in second.headers


@pytest.mark.parametrize("ahead", [post(chat()), HEALTH[:20], b"not HTTP"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_client_that_leaves_after_sending_ahead_frees_its_slot(
    engine: ScriptedEngine,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    ahead: bytes,
    at_once: bool,
) -> None:
    engine.script = Script(tokens=("never",), first_delay=60)
    peer = await connect(gateway)
    await peer.send(post(chat()) + (ahead if at_once else b""))
    await engine.wait_for(lambda e: e.in_flight == 1)
    if not at_once:
        await peer.send(ahead)
    peer.writer.transport.abort()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    assert len(engine.requests) == 1
    assert not has_complaints(caplog)


async def test_a_client_that_leaves_after_a_large_body_frees_its_slot(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    """Reading pauses at such a body, also if all of it comes at once."""
    engine.script = Script(tokens=("never",), first_delay=60)
    peer = await connect(gateway)
    await peer.send(post(chat(messages=[{"role": "user", "content": "a " * 60_000}])))
    await engine.wait_for(lambda e: e.in_flight == 1)
    peer.writer.transport.abort()
    await engine.wait_for(lambda e: e.cancelled == 1)


async def test_what_is_sent_ahead_is_bounded(engine: ScriptedEngine, gateway: Gateway) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    peer = await connect(gateway)
    await peer.send(post(chat()))
    await engine.wait_for(lambda e: e.stalled == 1)
    await peer.send(HEALTH * 1000)
    engine.resume()
    received = await peer.rest()
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.count(b"HTTP/1.1 200 OK") == 1 + protocol.MAX_WAITING
    assert received.count(b"HTTP/1.1") == 1 + protocol.MAX_WAITING


async def test_what_is_not_http_does_not_spoil_the_answer_before_it(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    peer = await connect(gateway)
    await peer.send(post(chat(stream=True)))
    await engine.wait_for(lambda e: e.stalled == 1)
    await peer.send(b"not HTTP\r\n\r\n")
    engine.resume()
    received = await peer.rest()
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("key", ["", "authorization: Bearer right\r\n"])
async def test_a_body_that_is_not_http_gets_one_answer(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    head = f"POST /llm HTTP/1.1\r\nHost: localhost\r\n{key}Transfer-Encoding: chunked\r\n\r\n"
    await peer.send(head.encode() + b"no size\r\n")  # at once: head and body are read together
    received = await peer.rest()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"content-length") == 1
    assert engine.generations == 0
    assert not has_complaints(caplog)


@pytest.mark.parametrize("wish", ["h2c", "websocket"])
async def test_a_request_to_switch_protocols_is_ignored(gateway: Gateway, wish: str) -> None:
    """Java's HTTP client sends one with every first request."""
    peer = await connect(gateway)
    asked = post(
        chat(),
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {wish}",
        "HTTP2-Settings: AAM",
    )
    await peer.send(asked[:-5])
    await asyncio.sleep(0.01)
    await peer.send(asked[-5:] + HEALTH)
    status, body = await peer.answer()
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello world"
    assert (await peer.answer())[0] == 200
    peer.writer.close()


async def test_a_stream_to_an_old_client_ends_with_its_connection(gateway: Gateway) -> None:
    peer = await connect(gateway)
    await peer.send(post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_old_client_gets_whole_answers_and_errors_too(gateway: Gateway) -> None:
    for body, expected in ((chat(), 200), ({}, 422)):
        peer = await connect(gateway)
        await peer.send(post(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await peer.answer())[0] == expected
        assert await peer.rest() == b""


async def test_a_body_that_nobody_reads_can_not_hold_its_connection(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "DISCARD_TIMEOUT", 0.05)
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    await peer.send(b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    assert (await peer.answer())[0] == 401
    await peer.send(b"x")
    assert await peer.rest() == b""


async def test_a_body_that_nobody_reads_leaves_its_connection_usable(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "DISCARD_TIMEOUT", 0.05)
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    request = post(chat())
    await peer.send(request[:-5])
    assert (await peer.answer())[0] == 401
    await peer.send(request[-5:])
    await asyncio.sleep(0.1)
    await peer.send(post(chat(), "Authorization: Bearer right"))
    assert (await peer.answer())[0] == 200
    peer.writer.close()


async def test_an_answer_that_nobody_takes_does_not_hold_its_connection(
    engine: ScriptedEngine, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.Protocol, "_stall_timeout", 0.1)
    engine.script = Script(tokens=("x" * 100_000,) * 200)
    peer = await connect(gateway)
    await peer.send(post(chat(), "Connection: close"))
    await engine.wait_for(lambda e: e.completed == 1)
    await gateway.until(lambda: not gateway.server.server_state.connections)
    peer.writer.transport.abort()


LARGE = 11 * 1024 * 1024


def upload(url: str, *, key: str, chunked: bool = False) -> int:
    """POST more than a body may have with urllib, which says ``Connection: close``."""
    data: Any = (b"x" * 65536 for _ in range(LARGE // 65536)) if chunked else b"x" * LARGE
    request = urllib.request.Request(f"{url}/llm", data, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code if json.loads(error.read())["error"]["code"] else 0


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), ("right", 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_early_answer_is_read_by_a_client_that_sends_everything_first(
    engine: ScriptedEngine, start_gateway: StartGateway, key: str, status: int, chunked: bool
) -> None:
    gateway = await start_gateway(engine, environ=KEYED)
    statuses = await asyncio.gather(
        *(asyncio.to_thread(upload, gateway.url, key=key, chunked=chunked) for _ in range(3))
    )
    assert statuses == [status] * 3
    await gateway.until(lambda: not gateway.server.server_state.connections)


async def test_a_client_that_sends_for_ever_after_an_early_answer_is_cut_off(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_DISCARDED_BYTES", 1_000_000)
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    head = b"POST /llm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    await peer.send(head + b"Content-Length: 999999999\r\n\r\n")
    assert (await peer.answer())[0] == 401
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            await peer.send(b"x" * 65536)
    await gateway.until(lambda: not gateway.server.server_state.connections)


async def test_a_client_that_sends_nothing_more_after_an_early_answer_is_let_go(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "DISCARD_TIMEOUT", 0.05)
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    head = b"POST /llm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    await peer.send(head + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert (await peer.answer())[0] == 401
    assert await peer.rest() == b""
    await gateway.until(lambda: not gateway.server.server_state.connections)


CHUNKED = (
    b"POST /llm HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'2d\r\n{"messages":[{"role":"user","content":"Hi"}]}\r\n0\r\n'
)


async def test_what_follows_a_chunked_body_is_no_header(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    """A forwarding header would make it a request from another machine, which is refused."""
    peer = await connect(gateway)
    await peer.send(CHUNKED + b"A: b\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n" + post(chat()))
    assert [(await peer.answer())[0] for _ in range(2)] == [200, 200]
    peer.writer.close()


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 60_000, b"a: " + b"b" * 400_000])
@pytest.mark.parametrize("key", ["right", "wrong"])
async def test_what_follows_a_chunked_body_is_bounded(
    engine: ScriptedEngine, start_gateway: StartGateway, trailers: bytes, key: str
) -> None:
    gateway = await start_gateway(engine, environ=KEYED)
    peer = await connect(gateway)
    authorization = b"\r\nAuthorization: Bearer %b\r\n" % key.encode()
    await peer.send(CHUNKED.replace(b"\r\n", authorization, 1))
    if key == "wrong":
        assert (await peer.answer())[0] == 401
    await peer.send(trailers)
    if key == "right":
        assert (await peer.answer())[0] == 431
    assert await peer.rest() == b""


async def test_a_target_may_be_a_whole_url(gateway: Gateway) -> None:
    peer = await connect(gateway)
    await peer.send(HEALTH.replace(b"/health", b"http://localhost/health"))
    assert (await peer.answer())[0] == 200
    await peer.send(HEALTH.replace(b"GET /health", b"HEAD http://localhost"))
    assert (await peer.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    peer.writer.close()


async def test_a_stream_that_ends_behind_answers_that_its_client_has_yet_to_read_is_refused(
    engine: ScriptedEngine, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = Script(tokens=("x" * 60_000,)), Script(tokens=("small",))
    engine.scripts = [large, small] * 16
    peer = await connect(gateway)
    transport = peer.writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    await gateway.until(lambda: gateway.server.server_state.connections)
    for one in gateway.server.server_state.connections:
        theirs = one.transport.get_extra_info("socket")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await peer.send((post(chat()) + post(chat(stream=True))) * 16)
    before = -1
    while before != (before := engine.generations) or not before:  # until every buffer is full
        await asyncio.sleep(0.2)
    gateway.app.end_requests(Overloaded("Enough.", retry_after=1))
    await asyncio.sleep(0.1)
    transport.resume_reading()
    await peer.send(b"not HTTP")
    received = await peer.rest()
    assert (received.count(b" 200 OK"), received.count(b" 503 ")) == (31, 1)
    assert not has_complaints(caplog)
