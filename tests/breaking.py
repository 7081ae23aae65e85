"""Connections that can be cut, and a server that can be killed and started again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from reverie.server import listen
from reverie.testing import ScriptedEngine


class ServerPlace:
    """Where one server after another listens: its address, its configuration and its store.

    Args:
        kind: the kind of engine that they are told they have.
        more: further lines of the configuration's one model.
    """

    def __init__(
        self, folder: Path, engine: ScriptedEngine, kind: str = "vllm", more: str = ""
    ) -> None:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self._config = folder / "reverie.toml"
        self._config.write_text(
            f'[server]\nport = {port}\n[store]\nurl = "sqlite:///{folder}/reverie.db"\n'
            f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "{engine.url}"\n'
            f'kind = "{kind}"\n{more}'
        )

    @asynccontextmanager
    async def server(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """``reverie serve`` as a process, once it answers."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reverie", "serve", "--config", str(self._config)),
            cwd=self._config.parent,
            env={**os.environ, "REVERIE_API_KEYS": ""},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as client, asyncio.timeout(60):
                while True:
                    try:
                        async with client.get(f"{self.url}readyz") as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        assert process.returncode is None
                    await asyncio.sleep(0.1)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class Link:
    """A proxy that passes bytes on to a server, and whose connections can be cut."""

    def __init__(self, server: str) -> None:
        self.server = server
        """Where new connections lead."""
        self.streams = 0
        """Connections on which the server's live feed comes now."""
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Link:
        self._listening = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = urlsplit(self.server)
        host, port = server.hostname, server.port
        try:
            upstream, sink = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, sink}
        self._open |= ends
        try:
            await asyncio.gather(self._watch(reader, sink), _copy(upstream, writer))
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy what a browser asks. A stream that it leaves takes its connection with it."""
        is_stream = False
        try:
            async for data in _parts(reader):
                if not is_stream and b" /admin/v1/live" in data:
                    is_stream = True
                    self.streams += 1
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # cut
        finally:
            self.streams -= is_stream
            writer.transport.abort()


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async for data in _parts(reader):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # cut
    writer.transport.abort()
