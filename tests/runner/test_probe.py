from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from reverie.runner import probe
from reverie.runner.directory import SOCKET_NAME, PrivateDirectory
from reverie.runner.endpoint import Endpoint
from reverie.testing import ScriptedEngine


@pytest.mark.integration
@pytest.mark.parametrize(
    ("answer", "context"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"default_generation_settings":{"n_ctx":4096}}', 4096),
        (b'HTTP/1.1 200 OK\r\n\r\n{"default_generation_settings":{"n_ctx":0}}', None),
        (b'HTTP/1.1 200 OK\r\n\r\n{"n_ctx":4096}', None),
        (b"HTTP/1.1 200 OK\r\n\r\n[1]", None),
        (b"HTTP/1.1 200 OK\r\n\r\nnot JSON", None),
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", None),
        (b"garbage", None),
        (b"", None),
    ],
)
async def test_an_engine_that_does_not_tell_its_context(answer: bytes, context: int | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    directory = PrivateDirectory()
    endpoint = Endpoint(str(directory.path / SOCKET_NAME))
    try:
        async with await asyncio.start_unix_server(serve, endpoint.host):
            assert await probe.slot_context(endpoint) == context
    finally:
        directory.remove()


async def test_nobody_listening(tmp_path: Path) -> None:
    assert await probe.slot_context(Endpoint(str(tmp_path / "absent"))) is None


@contextlib.asynccontextmanager
async def engine(*, answers: bool = True) -> AsyncGenerator[tuple[Endpoint, list[bytes]], None]:
    """An engine, and what it was asked. It may take questions and say nothing."""
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answers:
            writer.write(b"HTTP/1.1 503 Loading\r\n\r\n")
        else:
            await reader.read()
        writer.close()

    directory = PrivateDirectory()
    endpoint = Endpoint(str(directory.path / SOCKET_NAME))
    try:
        async with await asyncio.start_unix_server(serve, endpoint.host):
            yield endpoint, asked
    finally:
        directory.remove()


@pytest.mark.integration
async def test_an_engine_that_leaves_questions_unanswered_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT", 0.05)
    async with engine(answers=False) as (endpoint, asked):
        liveness = probe.LivenessProbe(endpoint, interval=0.01, failure_threshold=3)
        await asyncio.wait_for(liveness.watch(), 10)
        assert len(asked) == 3


@pytest.mark.integration
async def test_probed_at_once_one_silence_is_enough_and_concurrent_calls_share_a_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT", 0.05)
    async with engine(answers=False) as (endpoint, asked):
        liveness = probe.LivenessProbe(endpoint, interval=60, failure_threshold=3)
        hung = asyncio.create_task(liveness.watch())
        assert await asyncio.gather(*(liveness.probe_now() for _ in range(5))) == [False] * 5
        await asyncio.wait_for(hung, 10)
        assert len(asked) == 1


@pytest.mark.integration
async def test_an_engine_that_answers_is_alive_whatever_it_says() -> None:
    async with engine() as (endpoint, asked):
        liveness = probe.LivenessProbe(endpoint, interval=0.01, failure_threshold=1)
        hung = asyncio.create_task(liveness.watch())
        while len(asked) < 5:
            assert await liveness.probe_now()
        assert not hung.done()
        hung.cancel()


@pytest.mark.integration
async def test_an_engine_that_can_not_be_asked_is_not_taken_to_hang() -> None:
    async with engine() as (endpoint, _):
        liveness = probe.LivenessProbe(endpoint, interval=60, failure_threshold=1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))  # not one more
        try:
            assert await liveness.probe_now()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.integration
async def test_on_a_port_only_its_context_is_behind_the_key(tmp_path: Path) -> None:
    key = tmp_path / "api-key"
    key.write_text("sesame")
    props = {"default_generation_settings": {"n_ctx": 4096}}
    async with ScriptedEngine(key="sesame", pages={"/props": props}) as scripted:
        port = int(scripted.url.split(":")[2].removesuffix("/v1"))
        endpoint = Endpoint("127.0.0.1", port, str(key))
        assert await probe.slot_context(endpoint) == 4096
        open_ones = endpoint._replace(key_file="")
        assert await probe.slot_context(open_ones) is None
        await asyncio.wait_for(probe.wait_healthy(open_ones), 10)
        liveness = probe.LivenessProbe(open_ones, interval=60, failure_threshold=3)
        assert await liveness.probe_now()
    assert not await liveness.probe_now()
