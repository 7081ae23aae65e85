from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reverie.runner import probe
from reverie.runner.directory import SOCKET_NAME, PrivateDirectory


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
    socket = directory.path / SOCKET_NAME
    try:
        async with await asyncio.start_unix_server(serve, str(socket)):
            assert await probe.slot_context(socket) == context
    finally:
        directory.remove()


async def test_nobody_listening(tmp_path: Path) -> None:
    assert await probe.slot_context(tmp_path / "absent") is None
