"""Load on a server: connections that ask without a pause, or at a pace.

Requests are bytes that were made beforehand, and answers are read as far as their end and their
first token, so that one core does for the load, the engine and more.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_CLOCK_TICKS = 100
"""Of the kernel's clock, a second, in ``/proc/PID/stat``."""
_PATIENCE = 60.0


class Load(NamedTuple):
    """What a server did in a while."""

    answers: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def busy(self) -> float:
        """The share of one core that the server used."""
        return self.cpu_seconds / self.seconds

    @property
    def cost(self) -> float:
        """Milliseconds of CPU for an answer."""
        return 1e3 * self.cpu_seconds / self.answers


def question(
    *, stream: bool, tokens: int, model: str = "m", secret: str | None = None, path: str = "/v1"
) -> bytes:
    """A request for so many tokens, ready to be sent."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Write a short story about a lighthouse."}],
        "max_tokens": tokens,
        "stream": stream,
    }
    content = json.dumps(body).encode()
    lines = [
        f"POST {path}/chat/completions HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    if secret is not None:
        lines.append(f"authorization: Bearer {secret}")
    return "\r\n".join([*lines, "", ""]).encode() + content


class _Client(asyncio.Protocol):
    """One connection: asks, and tells when the answer has come."""

    def __init__(self, request: bytes) -> None:
        self.first = 0.0
        """When the first token of the latest answer came."""
        self._request = request
        self._transport: Any = None
        self._answer: asyncio.Future[None] | None = None
        self._head = b""
        self._tail = b""
        self._left: int | None = None  # bytes of a body whose length is known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    async def ask(self) -> None:
        """Send the request, and wait for the end of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._tail, self._left, self.first = b"", b"", None, 0.0
        self._transport.write(self._request)
        await self._answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if not self._tail and self._left is None:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            data = self._begin()
        if not self.first and data:
            self.first = time.perf_counter()
        if self._left is not None:
            self._left -= len(data)
            ended = self._left <= 0
        else:
            self._tail = (self._tail + data)[-5:] or b" "
            ended = self._tail == b"0\r\n\r\n"
        if ended:
            self._answer.set_result(None)

    def _begin(self) -> bytes:
        """Read the head; give what followed it."""
        head, _, rest = self._head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") and self._answer is not None:
            self._answer.set_exception(RuntimeError(f"refused: {self._head[:600]!r}"))
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._left = int(line[15:])
        return rest


async def _connect(url: str, requests: Sequence[bytes]) -> list[_Client]:
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    loop = asyncio.get_running_loop()
    clients = []
    for request in requests:
        _, client = await loop.create_connection(
            lambda request=request: _Client(request),  # type: ignore[misc]
            host,
            port,
        )
        clients.append(client)
    return clients


async def saturate(url: str, pid: int, requests: Sequence[bytes], seconds: float) -> Load:
    """Ask on one connection for each request, without a pause; count what came in the time.

    Args:
        pid: the server's process, whose CPU time is read.

    Raises:
        RuntimeError: not one came.
    """
    clients = await _connect(url, requests)
    answers = 0
    stopping = False

    async def ask_on(client: _Client) -> None:
        nonlocal answers
        while not stopping:
            await client.ask()
            answers += 1

    async with asyncio.timeout(seconds + _PATIENCE), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(ask_on(client))
        await asyncio.sleep(min(0.5, seconds / 4))
        before, cpu_before, began = answers, cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(seconds)
        ended = time.perf_counter()
        load = Load(answers - before, ended - began, cpu_seconds(pid) - cpu_before)
        stopping = True
    for client in clients:
        client.close()
    if not load.answers:
        raise RuntimeError(f"{url} gave no answer in {seconds:g} s: the machine is too busy")
    return load


async def pace(url: str, requests: Sequence[bytes], rate: float, seconds: float) -> list[float]:
    """Ask ``rate`` times a second over all connections, each at moments of its own.

    Returns:
        Seconds to the first token, counted from when each request was due.
    """
    clients = await _connect(url, requests)
    period = len(clients) / rate
    waits: list[float] = []

    async def ask_on(client: _Client) -> None:
        due = time.perf_counter() + random.random() * period
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked = max(due, time.perf_counter()) if len(clients) == 1 else due
            await client.ask()
            waits.append(client.first - asked)
            due += period * random.uniform(0.5, 1.5)

    async with asyncio.timeout(seconds + _PATIENCE), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(ask_on(client))
    for client in clients:
        client.close()
    return waits


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
