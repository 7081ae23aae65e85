"""Probes, against servers that are there, are not, or say odd things."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reverie import background
from reverie.backends.base import Health
from reverie.backends.build import build_backends
from reverie.backends.client.address import public_url
from reverie.backends.health import HealthMonitor, probe
from reverie.backends.http import HttpBackend
from reverie.backends.transport import Transport
from reverie.settings import BackendSettings, Settings
from reverie.testing import ScriptedEngine

LONG = 1000.0


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as scripted:
        yield scripted


@asynccontextmanager
async def transport_to(url: str, **headers: str) -> AsyncIterator[Transport]:
    transport = Transport(url, headers=headers, connect_timeout=5.0, socket=None)
    yield transport
    await transport.close()


@asynccontextmanager
async def prober(url: str, kind: Any = "generic", **intervals: float) -> AsyncIterator[Any]:
    """A prober, and what it found so far."""
    found: list[Health] = []
    async with transport_to(url) as transport:
        intervals = {"healthy_interval": LONG, "unhealthy_interval": LONG, **intervals}
        made = HealthMonitor(transport, kind, found.append, **intervals)
        yield made, found
        await made.stop()


@asynccontextmanager
async def server_that_says(answer: bytes) -> AsyncIterator[str]:
    """A server that gives one answer to everything; none at all if that is empty."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if answer:
                writer.write(answer)
            else:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_a_server_that_answers_is_well(engine: ScriptedEngine) -> None:
    async with transport_to(engine.url) as transport:
        health = await probe(transport, "models", 5.0)
    assert (health.ok, health.error_code, health.timed_out) == (True, "", False)
    assert engine.probes == ["GET /v1/models"]
    await engine.wait_for(lambda e: e.connections == 0)  # it leaves nothing behind
    assert not engine.requests


@pytest.mark.integration
async def test_a_socket_is_asked_as_a_port_is(tmp_path: Path) -> None:
    async with ScriptedEngine(socket=tmp_path / "s") as engine:
        async with transport_to(engine.url) as transport:
            assert (await probe(transport, "/health", 5.0)).ok
    assert engine.probes == ["GET /health"]


@pytest.mark.parametrize("kind", ["generic", "llamacpp", "vllm", "sglang", "ollama", "openai"])
async def test_no_kind_is_asked_for_a_generation(engine: ScriptedEngine, kind: str) -> None:
    async with prober(engine.url, kind):
        await engine.wait_for(lambda e: bool(e.probes))
    page = "GET /health" if kind in ("llamacpp", "vllm") else "GET /v1/models"
    assert engine.probes == [page]
    assert engine.generations == 0


async def test_a_server_that_is_not_there_is_not_well(engine: ScriptedEngine) -> None:
    engine.kill()
    async with transport_to(engine.url) as transport:
        health = await probe(transport, "models", 5.0)
    assert (health.ok, health.error_code, health.timed_out) == (False, "backend_error", False)


@pytest.mark.integration
async def test_a_server_that_does_not_answer_in_time_is_slow() -> None:
    began = time.monotonic()
    async with server_that_says(b"") as url, transport_to(url) as transport:
        health = await probe(transport, "models", 0.05)
    assert (health.ok, health.error_code, health.timed_out) == (False, "backend_timeout", True)
    assert 0 < health.duration <= time.monotonic() - began


@pytest.mark.integration
@pytest.mark.parametrize("page", ["models", "/health"])
@pytest.mark.parametrize(
    ("status", "good"),
    [
        *((status, True) for status in (200, 204, 301, 401, 403, 404, 405, 429, 501)),
        *((status, False) for status in (502, 503, 504)),
        (500, None),
    ],
)
async def test_what_a_status_says_of_a_server(page: str, status: int, good: bool | None) -> None:
    """A list of models that fails says little; a page on its health that fails says all."""
    if good is None or (status == 501 and page == "/health"):
        good = page == "models"
    answer = f"HTTP/1.1 {status} Some\r\nContent-Length: 0\r\nLocation: http://x.invalid/\r\n\r\n"
    async with server_that_says(answer.encode()) as url, transport_to(url) as transport:
        assert (await probe(transport, page, 5.0)).ok == good


@pytest.mark.integration
async def test_garbage_is_no_answer() -> None:
    async with server_that_says(b"220 mail.example ESMTP\r\n\r\n") as url:
        async with transport_to(url) as transport:
            assert (await probe(transport, "models", 5.0)).error_code == "backend_error"


async def test_a_server_is_asked_for_ever_and_its_changes_are_seen(engine: ScriptedEngine) -> None:
    async with prober(engine.url, healthy_interval=0.02, unhealthy_interval=0.01) as (_, found):

        async def until(good: bool) -> None:
            async with asyncio.timeout(10):
                while not found or found[-1].ok is not good:
                    await asyncio.sleep(0.005)

        await until(True)
        engine.kill()
        await until(False)
        await engine.restart()
        await until(True)
    asked = len(engine.probes)
    await asyncio.sleep(0.05)
    assert len(engine.probes) == asked  # it was stopped


@pytest.mark.integration
@pytest.mark.parametrize(
    ("page", "owned_by"),
    [
        (b'{"object":"list","data":[{"id":"m","owned_by":"vllm"}],"more":1}', "vllm"),
        (b'{"data":[]}', ""),
        (b'{"data":[{"id":"m"}]}', ""),
        (b'{"data":[{"owned_by":7}]}', ""),
        (b'["vllm"]', ""),
        (b"<html>", ""),
    ],
)
async def test_a_list_of_models_tells_who_made_the_server(page: bytes, owned_by: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    async with server_that_says(answer) as url, transport_to(url) as transport:
        health = await probe(transport, "models", 5.0)
    assert (health.ok, health.owned_by) == (True, owned_by)


async def test_a_server_that_tells_what_it_is_is_asked_for_its_health_too(
    engine: ScriptedEngine,
) -> None:
    engine.owned_by, engine.healthy = "llamacpp", False  # it loads its model
    async with prober(engine.url, "auto") as (_, found):
        async with asyncio.timeout(10):
            while not found:
                await asyncio.sleep(0.005)
    assert engine.probes == ["GET /v1/models", "GET /health"]
    assert (found[0].ok, found[0].owned_by) == (False, "llamacpp")


@pytest.mark.integration
async def test_a_list_of_models_that_does_not_end_is_an_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
    async with server_that_says(answer) as url, transport_to(url) as transport:
        assert (await probe(transport, "models", 5.0)).ok


async def test_a_server_is_what_its_list_of_models_says_unless_it_is_configured(
    engine: ScriptedEngine,
) -> None:
    engine.owned_by = "llamacpp"
    for configured, kind, continues in (
        ("auto", "llamacpp", True),
        ("generic", "generic", False),
        ("ollama", "ollama", False),
    ):
        settings = BackendSettings.model_validate({"url": engine.url, "kind": configured})
        backend = HttpBackend(
            "b", settings, model="m", first_token_timeout=5, stall_timeout=5, probing=True
        )
        known = asyncio.Event()
        await backend.start(lambda b=backend, k=known: b.health and k.set())
        await asyncio.wait_for(known.wait(), 5)
        assert (backend.kind, backend.can_continue) == (kind, continues)
        await backend.stop()


async def test_a_suspect_is_looked_at_sooner(engine: ScriptedEngine) -> None:
    async with prober(engine.url, unhealthy_interval=0.01) as (made, found):
        await engine.wait_for(lambda e: len(e.probes) == 1)
        await asyncio.sleep(0.05)
        assert len(found) == 1  # the next one is a long time off
        made.probe_soon()
        await engine.wait_for(lambda e: len(e.probes) == 2)
        await asyncio.sleep(0.05)
        assert len(found) == 2  # and was well, so that it is let be


async def test_a_backend_tells_of_its_health(engine: ScriptedEngine) -> None:
    changes: list[bool | None] = []
    seen = asyncio.Event()
    backend = HttpBackend(
        "b",
        BackendSettings(url=engine.url, api_key_env="KEY"),
        model="m",
        first_token_timeout=5.0,
        stall_timeout=5.0,
        environ={"KEY": "sk-secret"},
        probing=True,
    )

    def on_change() -> None:
        changes.append(backend.health and backend.health.ok)
        if backend.health is not None:
            seen.set()

    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.stop)
        await backend.start(on_change)
        async with asyncio.timeout(10):
            await seen.wait()
    assert changes == [None, True]
    backend.probe_soon()  # stopped, and no worse for it


async def test_every_backend_of_the_configuration_that_others_run_is_probed(
    engine: ScriptedEngine,
) -> None:
    settings = Settings.model_validate(
        {"models": [{"name": "m", "backends": [{"url": engine.url, "weight": 2.5}]}]}
    )
    [(_, [backend])] = build_backends(settings)
    await backend.start(lambda: None)
    await engine.wait_for(lambda e: bool(e.probes))
    await backend.stop()
    assert backend.weight == 2.5


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("https://api.example/v1?key=sk-secret#x", "https://api.example/v1"),
        ("https://me:sk-secret@api.example:8443/v1", "https://api.example:8443/v1"),
        ("http+unix://%2Ftmp%2Fs/v1", "http+unix://%2Ftmp%2Fs/v1"),
        ("http+unix:///tmp/s", "http+unix:///tmp/s"),
    ],
)
def test_the_url_that_is_shown_has_no_secrets(written: str, shown: str) -> None:
    assert public_url(written) == shown
    backend = HttpBackend(
        "b", BackendSettings(url=shown), model="m", first_token_timeout=1, stall_timeout=1
    )
    assert backend.url == shown


async def test_a_probe_whose_result_can_not_be_taken_is_not_the_last(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)
    found: list[Health] = []

    def take(health: Health) -> None:
        found.append(health)
        if len(found) < 3:
            raise OSError("injected")

    before = background.FAILURES["health probes"]
    async with transport_to(engine.url) as transport:
        monitor = HealthMonitor(transport, "generic", take, healthy_interval=LONG)
        async with asyncio.timeout(10):
            while len(found) < 3:
                await asyncio.sleep(0.01)
        await monitor.stop()
    assert background.FAILURES["health probes"] == before + 2
