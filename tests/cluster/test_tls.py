"""TLS before an engine: who is served, what is passed on, and what is refused beforehand."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from reverie.cluster.engine import EngineHost
from reverie.cluster.tls import TlsFiles, TlsFront, check, server_context
from reverie.errors import ModelError
from reverie.runner.port import Port
from reverie.testing import Script, ScriptedEngine
from tests.cluster.engines import scripted, text_of
from tests.cluster.test_engine import HELLO, until

pytestmark = pytest.mark.integration


def make_certificate(folder: Path, host: str) -> TlsFiles:
    """A certificate for an address, signed by itself."""
    tls = TlsFiles(*(str(folder / f"{host}.{kind}") for kind in ("pem", "key", "pem")))
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", f"subjectAltName=IP:{host}", "-keyout", str(tls.key)]
    subprocess.run([*command, "-out", str(tls.cert)], check=True, capture_output=True)
    return tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@asynccontextmanager
async def front(tls: TlsFiles, engine: ScriptedEngine) -> AsyncIterator[str]:
    """The URL of a front before an engine."""
    port = Port("127.0.0.1")
    assert engine._socket is not None
    socket = engine._socket
    one = TlsFront(port.listen(), server_context(tls), lambda: socket)
    await one.start()
    try:
        yield f"https://127.0.0.1:{port.number}/v1"
    finally:
        one.stop()
        one.stop()
        port.release()


def client(tls: TlsFiles) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=tls.ca)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))


BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def pass_long_texts_and_notice_who_leaves(tls: TlsFiles) -> None:
    words = tuple(f"{number:07d} " for number in range(20_000))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = Path(folder, "engine.sock")
        script = Script(tokens=words, batch=None)
        async with (
            ScriptedEngine(script, socket=socket) as engine,
            front(tls, engine) as url,
            client(tls) as http,
        ):
            long = BODY | {"messages": [{"role": "user", "content": "long " * 200_000}]}
            async with http.post(f"{url}/chat/completions", json=long) as response:
                head = await response.content.readexactly(100)
                await asyncio.sleep(0.2)  # a slow reader
                text = head + await response.read()
            assert text.endswith(b"data: [DONE]\n\n")
            assert all(word.encode() in text for word in (words[0], words[9_999], words[-1]))
            assert engine.requests[0].body == long

            engine.script = Script(tokens=words, delay=0.01)
            response = await http.post(f"{url}/chat/completions", json=BODY)
            await response.content.readany()
            response.close()
            await engine.wait_for(lambda _: engine.cancelled == 1)

            response = await http.post(f"{url}/chat/completions", json=BODY)
            engine.kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
            with pytest.raises(aiohttp.ClientError):  # it is being started again
                await http.post(f"{url}/chat/completions", json=BODY)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_passes_all_on_until_one_of_both_leaves(tls: TlsFiles, new_loop: Any) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(pass_long_texts_and_notice_who_leaves(tls))


async def test_who_speaks_no_tls_or_does_not_trust_it_is_not_served(tls: TlsFiles) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        async with (
            ScriptedEngine(socket=Path(folder, "engine.sock")) as engine,
            front(tls, engine) as url,
            aiohttp.ClientSession() as http,
        ):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(f"{url}/models")
            with pytest.raises(aiohttp.ClientError):
                await http.get(f"{url}/models".replace("https", "http"))
            assert engine.connections == 0


async def test_an_engine_of_a_cluster_with_tls(
    tls: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    host = EngineHost("m/0", "uid", scripted(tmp_path), host="127.0.0.1", tls=tls)
    await host.start()
    try:
        info = await until(host, "ready")
        assert info.url.startswith("https://127.0.0.1:")
        url = f"{info.url}/chat/completions"
        async with client(tls) as http:
            assert (await http.post(url, json=HELLO)).status == 401
            key = {"Authorization": f"Bearer {info.key}"}
            async with http.post(url, json=HELLO, headers=key) as response:
                answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == text_of(5)
    finally:
        await host.stop()


async def test_a_certificate_for_another_address_is_told_before_anything_starts(
    tls: TlsFiles, tmp_path: Path
) -> None:
    host = EngineHost("m/0", "uid", scripted(tmp_path), host="127.0.0.2", tls=tls)
    await host.start()
    try:
        why = (await until(host, "failed")).why
    finally:
        await host.stop()
    assert f"The certificate {tls.cert} doesn't hold for 127.0.0.2: " in why


def test_what_can_not_be_used_is_told_in_a_sentence(tls: TlsFiles, tmp_path: Path) -> None:
    check(tls, "127.0.0.1")
    other = make_certificate(tmp_path, "127.0.0.1")
    for wrong, why in (
        (tls._replace(ca=other.ca), "doesn't hold for 127.0.0.1: self-signed certificate"),
        (tls._replace(key=other.key), "must be in PEM, without a passphrase, and the key that of"),
        (tls._replace(cert=__file__), "must be in PEM"),
        (tls._replace(ca="/nowhere/ca.pem"), "/nowhere/ca.pem can't be read: No such file"),
    ):
        with pytest.raises(ModelError, match=why):
            check(wrong, "127.0.0.1")
