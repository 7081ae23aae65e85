"""The least that any server on uvloop can be: each connection's bytes, handed on as they come.

A client's connection has one of its own to the engine. Nothing is read in what comes, not even
where a request ends, so nothing could be refused, counted, or asked of another engine. What the
loop, the kernel and two calls of Python cost is all that there is.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Engine(asyncio.Protocol):
    """The engine's side of a connection."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.close()


class Client(asyncio.Protocol):
    """The client's side, which opens the other."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._engine: asyncio.Transport | None = None
        self._before = b""
        """What came before the engine was reached."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = cast("asyncio.Transport", transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._engine, _ = await loop.create_connection(lambda: Engine(self._client), *self._address)
        self._engine.write(self._before)

    def data_received(self, data: bytes) -> None:
        if self._engine is None:
            self._before += data
        else:
            self._engine.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._connecting.cancel()
        if self._engine is not None:
            self._engine.close()


async def serve(engine: str, port: int) -> None:
    parts = urlsplit(engine)
    assert parts.hostname is not None
    assert parts.port is not None
    host, engine_port = parts.hostname, parts.port
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(host, engine_port), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True, help="the engine's URL")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.engine, given.port))
