"""Servers that say exactly what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Handler = Callable[["Peer"], Awaitable[None]]
Serve = Callable[..., Awaitable["Peers"]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: its head and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        return head, await self.reader.readexactly(length)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def client_left(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        self.writer.transport.abort()


class Peers:
    """A server, and what it saw."""

    def __init__(self, handler: Handler) -> None:
        self.opened = 0
        self.open = 0
        self.url = ""
        self.port = 0
        self._handler = handler
        self._changed = asyncio.Condition()

    async def wait_for_open(self, count: int) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.open == count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        await self._count(+1)
        try:
            await self._handler(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            await self._count(-1)

    async def _count(self, change: int) -> None:
        self.open += change
        async with self._changed:
            self._changed.notify_all()


async def answer_all(peer: Peer) -> None:
    """Answer every request with the number of bytes of its body."""
    while True:
        _, body = await peer.request()
        text = b"%d" % len(body)
        peer.send(HEAD % len(text) + text)
