"""One engine of a cluster is asked as Reverie's own engine is, over TCP, with its key."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reverie.backends.client.connecting import private_tls_context
from reverie.backends.member import MemberBackend
from reverie.errors import BackendError
from reverie.events import Event
from reverie.request import GenerateRequest
from reverie.settings import ModelSettings
from reverie.testing import ScriptedEngine
from tests.backends.peers import Peer, Serve

CERTIFICATE = Path(__file__).parent / "client" / "localhost.pem"
MODEL = ModelSettings(name="m", source="smollm2-135m", slots=4)
HELLO = GenerateRequest(model="m", messages=[{"role": "user", "content": "Hi"}])


def backend(url: str, **more: object) -> MemberBackend:
    tls = more.get("tls")
    assert tls is None or isinstance(tls, ssl.SSLContext)
    return MemberBackend(
        "m/0", MODEL, url=url, key="k-1", first_token_timeout=5, stall_timeout=5, tls=tls
    )


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as scripted:
        yield scripted


async def test_an_answer_comes_with_the_key_and_a_begun_one_needs_no_look_at_the_template(
    engine: ScriptedEngine,
) -> None:
    member = backend(engine.url)
    await member.start(lambda: None)
    events: list[Event] = []
    ends_with_assistant = [*HELLO.messages, {"role": "assistant", "content": "The"}]
    request = GenerateRequest(model="m", messages=ends_with_assistant)
    await member.generate(request, events.extend)
    await member.stop()
    assert "".join(getattr(event, "text", "") for event in events) == "Hello world"
    (asked,) = engine.requests
    assert asked.headers["authorization"] == "Bearer k-1"
    assert not [probe for probe in engine.probes if "apply-template" in probe]


def test_gateways_share_its_memory_each_with_room_for_one_context() -> None:
    member = backend("http://10.0.0.2:9/v1")
    assert (member.slots, member.capacity, member.context) == (4, None, None)
    for gateways, capacity in ((1, 8192), (2, 4096), (3, 3000)):
        member.resize(slots=8, context=3000, kv_tokens=8192, gateways=gateways)
        assert (member.slots, member.capacity, member.context) == (8, capacity, 3000)


@pytest.mark.parametrize("url", ["ftp://10.0.0.2/v1", "http://a b/v1"])
def test_an_address_that_cannot_be_used_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        backend(url)


@pytest.mark.integration
async def test_a_machine_is_known_by_its_authority_whatever_its_address_is(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        await peer.request()
        body = b'{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}]}'
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        peer.send(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(CERTIFICATE)
    peers = await serve(answer, tls=shown)
    url = f"https://127.0.0.1:{peers.port}/v1"  # the certificate is for localhost
    known = backend(url, tls=private_tls_context(CERTIFICATE))
    await known.start(lambda: None)
    events: list[Event] = []
    await known.generate(HELLO, events.extend)
    await known.stop()
    assert events
    strange = backend(url)
    await strange.start(lambda: None)
    with pytest.raises(BackendError):
        await strange.generate(HELLO, lambda _: None)
    await strange.stop()


def test_an_authority_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        private_tls_context(tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError):
        private_tls_context(tmp_path / "absent.pem")
