"""Load on a server: connections that ask without a pause, and streams that are held open."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cpus import cpu_seconds
from wire import AnswerReader, StampReader

_SLOW = 20.0
_QUIET = 0.25
"""The share of a core below which a server has done what it was asked."""


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
        """Microseconds of CPU for an answer."""
        return 1e6 * self.cpu_seconds / self.answers


class Connection(asyncio.Protocol):
    """Sends its request, and reads the answer.

    Args:
        on_end: called when an answer has come; it may send the next.
        on_body: called with what came of a body, and when.
    """

    def __init__(
        self,
        request: bytes,
        on_end: Callable[[Connection], None],
        on_body: Callable[[bytes, float], None] | None = None,
    ) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it is closed; fails if the answer was refused or broke off."""
        self._request = request
        self._on_end = on_end
        self._on_body = on_body
        self._transport: Any = None
        self._reader: AnswerReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self) -> None:
        self._reader = AnswerReader()
        self._transport.write(self._request)

    def close(self) -> None:
        self._reader = None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            body = self._reader.feed(data)
        except RuntimeError as error:
            self._fail(error)
            return
        if body and self._on_body is not None:
            self._on_body(body, time.perf_counter())
        if self._reader.ended:
            self._reader = None
            self._on_end(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._reader is not None:
            self._fail(ConnectionError("the server closed the connection in mid-answer"))
        if not self.lost.done():
            self.lost.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)
        self._reader = None
        self._transport.close()


async def connect(url: str, make: Callable[[], Connection]) -> Connection:
    """Connect to ``http://host:port``."""
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    return (await loop.create_connection(make, address.hostname or "", address.port or 80))[1]


async def hang_up(connections: Iterable[Connection]) -> None:
    """Close them, and raise what went wrong on any of them."""
    connections = list(connections)
    for connection in connections:
        connection.close()
    await asyncio.gather(*(connection.lost for connection in connections))


async def settle(pid: int) -> None:
    """Wait until a server has finished what it was asked, ten seconds at most."""
    for _ in range(50):
        before = cpu_seconds(pid)
        await asyncio.sleep(0.2)
        if cpu_seconds(pid) - before < 0.2 * _QUIET:
            return


async def saturate(url: str, pid: int, requests: Sequence[bytes], seconds: float) -> Load:
    """Ask on one connection for each request, without a pause; count what came in the time.

    A server that is slow gets longer, until an answer for each connection has come.

    Args:
        pid: the server's process, whose CPU time is read, with its children's.

    Raises:
        RuntimeError: not one came, or one was refused.
    """
    answers = before = 0
    stopping = False
    one_each = asyncio.Event()

    def on_end(connection: Connection) -> None:
        nonlocal answers
        answers += 1
        if answers >= before + len(requests):
            one_each.set()
        if not stopping:
            connection.send()

    connections = [
        await connect(url, lambda request=request: Connection(request, on_end))  # type: ignore[misc]
        for request in requests
    ]
    for connection in connections:
        connection.send()
    await asyncio.sleep(min(0.5, seconds / 4))
    one_each.clear()
    before, cpu_before, began = answers, cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SLOW):
            await one_each.wait()
    load = Load(answers - before, time.perf_counter() - began, cpu_seconds(pid) - cpu_before)
    stopping = True
    await hang_up(connections)
    await settle(pid)
    if not load.answers:
        raise RuntimeError(f"no answer in {_SLOW:g} s")
    return load


class Clients:
    """Connections that stay open; each sends its request again as soon as it has its answer."""

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        self._url = url
        self._requests = requests
        self._connections: list[Connection] = []
        self._left = 0
        self._done = asyncio.Event()

    async def open(self) -> None:
        for request in self._requests:
            made = await connect(
                self._url,
                lambda request=request: Connection(request, self._on_end),  # type: ignore[misc]
            )
            self._connections.append(made)

    async def ask(self, count: int, limit: float) -> int:
        """Have so many requests answered, for ``limit`` seconds at most; give how many were."""
        self._done.clear()
        self._left = count
        for connection in self._connections:
            connection.send()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._done.wait()
        return count - self._left

    async def close(self) -> None:
        await hang_up(self._connections)

    def _on_end(self, connection: Connection) -> None:
        self._left -= 1
        if self._left >= len(self._connections):
            connection.send()
        elif self._left <= 0:
            self._done.set()


async def answer(url: str, pid: int, requests: Sequence[bytes], count: int, limit: float) -> int:
    """Have requests answered, for ``limit`` seconds at most; give how many were."""
    clients = Clients(url, requests)
    await clients.open()
    done = await clients.ask(count, limit)
    await clients.close()
    await settle(pid)
    return done


class Window(NamedTuple):
    """What came on open streams in a while."""

    chunks: int
    expected: float
    """Chunks that the engine's pace would have brought."""
    cpu_seconds: float
    beside: float
    """The share of one CPU that the engine and this load used."""
    delays: Sequence[float]
    """Seconds from the engine's sending of each chunk to its coming."""
    stalled: int
    """Streams on which a chunk came late by more than ``STALL``, or none came."""

    @property
    def share(self) -> float:
        """Of the engine's pace, as it came."""
        return self.chunks / max(1.0, self.expected)


STALL = 0.1


class _Stream:
    def __init__(self) -> None:
        self.delays: list[float] = []
        self._stamps = StampReader()

    def on_body(self, data: bytes, now: float) -> None:
        self.delays += [now - moment for moment in self._stamps.feed(data)]


class Streams:
    """Paced streams of one server, held open until ``close``.

    Args:
        pid: the server's process.
        engine_pid: the process of the engine behind it.
        pause: seconds between two chunks of a stream.
    """

    def __init__(self, url: str, pid: int, engine_pid: int, pause: float) -> None:
        self._url, self._pid, self._pause = url, pid, pause
        self._engine_pid = engine_pid
        self._streams: list[_Stream] = []
        self._connections: list[Connection] = []
        self._ended = 0

    def _on_end(self, _connection: Connection) -> None:
        self._ended += 1

    async def open(self, requests: Sequence[bytes], seconds: float) -> None:
        """Begin them one after another within ``seconds``."""
        began = time.perf_counter()
        for number, request in enumerate(requests):
            stream = _Stream()
            connection = await connect(
                self._url,
                lambda request=request, stream=stream: Connection(  # type: ignore[misc]
                    request, self._on_end, stream.on_body
                ),
            )
            self._streams.append(stream)
            self._connections.append(connection)
            connection.send()
            due = began + seconds * (number + 1) / len(requests)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    @property
    def begun(self) -> int:
        """Streams on which something came."""
        return sum(1 for stream in self._streams if stream.delays)

    async def wait_begun(self, count: int, limit: float) -> None:
        """Wait until something came on so many, ``limit`` seconds at most."""
        for _ in range(int(limit / 0.1)):
            if self.begun >= count:
                return
            await asyncio.sleep(0.1)

    async def watch(self, seconds: float) -> Window:
        """Measure for a while.

        Raises:
            RuntimeError: one ended before its time.
        """
        for stream in self._streams:
            stream.delays = []
        cpu_before, beside_before = cpu_seconds(self._pid), self._beside()
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        spent, took = cpu_seconds(self._pid) - cpu_before, time.perf_counter() - began
        beside = (self._beside() - beside_before) / took
        each = [stream.delays for stream in self._streams]
        for lost in (connection.lost for connection in self._connections):
            if lost.done():
                raise lost.exception() or ConnectionError("a stream was closed before its time")
        if self._ended:
            raise RuntimeError(f"{self._ended} streams ended before their time")
        return Window(
            chunks=sum(map(len, each)),
            expected=len(each) * took / self._pause,
            cpu_seconds=spent,
            beside=beside,
            delays=[delay for delays in each for delay in delays],
            stalled=sum(1 for delays in each if not delays or max(delays) > STALL),
        )

    def _beside(self) -> float:
        """CPU seconds of the engine and of this process."""
        return cpu_seconds(self._engine_pid) + time.process_time()

    async def close(self) -> None:
        """Hang up on all of them, and wait until the server has noticed."""
        for connection in self._connections:
            connection.close()
        await asyncio.gather(*(c.lost for c in self._connections), return_exceptions=True)
        await settle(self._pid)


async def ask(url: str, request: bytes, limit: float = 120.0) -> float:
    """Ask once, on a connection of its own; give the seconds to the first that came of the answer.

    Args:
        limit: seconds within which all of it must have come.

    Raises:
        TimeoutError: it didn't.
    """
    first = 0.0
    ended = asyncio.Event()

    def on_body(_data: bytes, now: float) -> None:
        nonlocal first
        first = first or now

    connection = await connect(url, lambda: Connection(request, lambda _: ended.set(), on_body))
    asked = time.perf_counter()
    connection.send()
    waiting = asyncio.ensure_future(ended.wait())
    either = asyncio.FIRST_COMPLETED
    try:
        await asyncio.wait((waiting, connection.lost), timeout=limit, return_when=either)
        waiting.cancel()
    finally:
        await hang_up((connection,))
    if not ended.is_set():
        raise TimeoutError(f"no answer in {limit:g} s")
    return first - asked
