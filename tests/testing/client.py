"""A client that sees every byte: raw sockets, no HTTP library."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote, urlsplit

from reverie.testing import ScriptedEngine


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **more}


class Answer:
    """What came back on one connection that the engine was asked to close, or that broke."""

    def __init__(self, received: bytes, *, reset: bool, reads: list[bytes]) -> None:
        head, _, self.framed = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.received = received
        self.reset = reset
        self.reads = reads
        self.status = int(lines[0].split()[1]) if lines[0] else 0
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])
        }
        self.whole = True
        """Whether the body was properly ended."""
        self.body = self._unframe()

    def _unframe(self) -> bytes:
        if "transfer-encoding" not in self.headers:
            self.whole = len(self.framed) == int(self.headers.get("content-length", -1))
            return self.framed
        body, rest = b"", self.framed
        while True:
            size, found, rest = rest.partition(b"\r\n")
            if not found:
                self.whole = False
                return body
            if int(size, 16) == 0:
                return body
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def payloads(self) -> list[str]:
        """What followed ``data: `` in each complete event."""
        text = self.body.decode().replace("\r\n", "\n")
        events = text.split("\n\n")[:-1]
        return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.payloads if payload != "[DONE]"]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [chunk["choices"][0]["delta"] for chunk in self.chunks if chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    @property
    def reason(self) -> str | None:
        reasons = [
            chunk["choices"][0]["finish_reason"] for chunk in self.chunks if chunk["choices"]
        ]
        return next((reason for reason in reasons if reason), None)

    @property
    def usage(self) -> dict[str, Any]:
        usages = [chunk["usage"] for chunk in self.chunks if "usage" in chunk]
        assert len(usages) == 1
        return usages[0]


async def connect(engine: ScriptedEngine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(engine.url)
    if parts.scheme == "http+unix":
        return await asyncio.open_unix_connection(unquote(parts.netloc))
    return await asyncio.open_connection(parts.hostname, parts.port)


def post(body: Any, *, close: bool = True, path: str = "/v1/chat/completions") -> bytes:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: e\r\nContent-Length: {len(encoded)}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + encoded


async def read_all(reader: asyncio.StreamReader) -> Answer:
    """Read until the engine closes or resets."""
    reads: list[bytes] = []
    reset = False
    async with asyncio.timeout(10):
        try:
            while data := await reader.read(65536):
                reads.append(data)
        except ConnectionResetError:
            reset = True
    return Answer(b"".join(reads), reset=reset, reads=reads)


async def ask(engine: ScriptedEngine, sent: bytes | None = None, **more: Any) -> Answer:
    """Send a request (a chat with the fields in ``more``, or ``sent``) and read the answer."""
    reader, writer = await connect(engine)
    writer.write(post(chat(**more)) if sent is None else sent)
    try:
        return await read_all(reader)
    finally:
        writer.close()
