"""One connection: its waits, its bounds, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from reverie.backends.client.address import Address
from reverie.backends.client.connecting import Connector
from reverie.backends.client.connection import Connection
from reverie.errors import BackendTimeout, ConnectionLost
from tests.backends.peers import HEAD, Peer, Peers, Serve, answer_all

pytestmark = pytest.mark.integration

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
Connect = Callable[[Peers], Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connections that are gone at the end."""
    gone: list[tuple[Connection, asyncio.Event]] = []

    async def connect(peers: Peers) -> Connection:
        lost = asyncio.Event()

        def on_lost(connection: Connection) -> None:
            if not connection.is_open:
                lost.set()

        connection = await Connector(Address.of(peers.url)).open(lambda: Connection(on_lost))
        gone.append((connection, lost))
        return connection

    yield connect
    for connection, lost in gone:
        connection.abort()
        async with asyncio.timeout(10):
            await lost.wait()


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def ask(connection: Connection, body: bytes = b"") -> None:
    await connection.request(REQUEST % len(body), body, soon())


async def test_one_request_after_the_other(serve: Serve, connect: Connect) -> None:
    connection = await connect(await serve(answer_all))
    for size in (0, 5, 100_000, 3_000_000):
        await ask(connection, b"x" * size)
        assert connection.status == 200
        assert await connection.read(soon()) == b"%d" % size
        assert connection.at_end
        assert await connection.read(soon()) == b""
        assert connection.reusable


async def test_a_read_gives_all_that_has_arrived(serve: Serve, connect: Connect) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send(b"2\r\nab\r\n3\r\ncde\r\n")
        await peer.client_left()

    connection = await connect(await serve(handler))
    await ask(connection)
    assert await connection.read(soon()) == b"abcde"
    assert not connection.at_end
    assert not connection.reusable


class Flood:
    """A body of 64 MB, sent as fast as it is taken."""

    size = 64 * 1024 * 1024

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % self.size)
        while self.sent < self.size:
            peer.send(bytes(1024 * 1024))
            await peer.writer.drain()
            self.sent += 1024 * 1024

    async def held_up(self) -> None:
        """Wait until no more of it is taken, with some of it left."""
        last = -1
        while last != self.sent:
            last = self.sent
            await asyncio.sleep(0.1)
        assert self.sent < self.size


async def test_a_reader_that_does_not_read_holds_the_server_up(
    serve: Serve, connect: Connect
) -> None:
    flood = Flood()
    connection = await connect(await serve(flood.send))
    await ask(connection)
    await flood.held_up()
    received = 0
    while data := await connection.read(soon()):
        assert len(data) < 2 * 1024 * 1024
        received += len(data)
    assert received == flood.size
    assert connection.reusable


async def test_others_are_served_while_a_large_request_goes_out(
    serve: Serve, connect: Connect
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 0)

    connection = await connect(await serve(handler))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await ask(connection, bytes(8 * 1024 * 1024))
    counting.cancel()
    assert turns > 100


async def test_a_response_before_the_request_is_out_is_read_and_ends_the_connection(
    serve: Serve, connect: Connect
) -> None:
    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno")
        await go.wait()

    connection = await connect(await serve(handler))
    await ask(connection, bytes(64 * 1024 * 1024))
    assert connection.status == 413
    assert await connection.read(soon()) == b"no"
    assert connection.at_end
    assert not connection.reusable
    go.set()


async def test_a_server_that_takes_nothing_of_a_large_request(
    serve: Serve, connect: Connect
) -> None:
    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await go.wait()

    connection = await connect(await serve(handler))
    body = bytes(64 * 1024 * 1024)
    with pytest.raises(BackendTimeout, match="did not answer in time"):
        await connection.request(REQUEST % len(body), body, soon(0.1))
    go.set()


@pytest.mark.parametrize("size", [0, 64 * 1024 * 1024])
async def test_a_server_that_hangs_up(serve: Serve, connect: Connect, size: int) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    connection = await connect(await serve(handler))
    with pytest.raises(ConnectionLost, match="closed the connection unanswered"):
        await ask(connection, bytes(size))
    assert connection.untouched
    with pytest.raises(ConnectionLost):  # nor can it be used again
        await ask(connection)


@pytest.mark.parametrize("head", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_head_that_breaks_off(serve: Serve, connect: Connect, head: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(head)

    connection = await connect(await serve(handler))
    with pytest.raises(ConnectionLost, match="closed the connection unanswered") as caught:
        await ask(connection)
    assert caught.value.reason == "the server closed it"
    assert not connection.untouched


async def test_what_came_of_a_body_that_breaks_off_is_read_before_its_end_fails(
    serve: Serve, connect: Connect
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 9 + b"abc")

    peers = await serve(handler)
    connection = await connect(peers)
    await ask(connection)
    await peers.wait_for_open(0)
    await asyncio.sleep(0.05)
    assert await connection.read(soon()) == b"abc"
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="broke"):
            await connection.read(soon())


async def test_a_body_without_a_length_ends_well(serve: Serve, connect: Connect) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")

    connection = await connect(await serve(handler))
    await ask(connection)
    read = b""
    while data := await connection.read(soon()):
        read += data
    assert read == b"abc"
    assert connection.at_end
    assert not connection.reusable


async def test_a_body_without_a_length_that_is_reset_fails(serve: Serve, connect: Connect) -> None:
    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")  # what is left unread makes the close a reset
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await go.wait()
        peer.reset()

    connection = await connect(await serve(handler))
    await ask(connection, bytes(300_000))
    assert await connection.read(soon()) == b"abc"
    go.set()
    with pytest.raises(ConnectionLost) as caught:
        await connection.read(soon())
    assert caught.value.reason == "ConnectionResetError"


async def test_silence(serve: Serve, connect: Connect) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 9 + b"abc")
        await peer.client_left()

    connection = await connect(await serve(handler))
    await ask(connection)
    assert await connection.read(soon()) == b"abc"
    with pytest.raises(BackendTimeout, match="fell silent"):
        await connection.read(soon(0.05))


@pytest.mark.parametrize("deadlines", [[0.3, 60.0, 0.1], [60.0, 0.1], [0.1, 0.1], [0.0], [-1.0]])
async def test_each_read_has_its_own_deadline(
    serve: Serve, connect: Connect, deadlines: list[float]
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 999)
        for _ in deadlines[:-1]:
            await asyncio.sleep(0.01)
            peer.send(b"x")
        await peer.client_left()

    connection = await connect(await serve(handler))
    await ask(connection)
    for seconds in deadlines[:-1]:
        assert await connection.read(soon(seconds))
    async with asyncio.timeout(10):
        with pytest.raises(BackendTimeout):
            await connection.read(soon(deadlines[-1]))


async def test_an_earlier_deadline_that_passed_while_nobody_read_harms_nothing(
    serve: Serve, connect: Connect
) -> None:
    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 2 + b"a")
        await go.wait()
        peer.send(b"b")
        await peer.client_left()

    connection = await connect(await serve(handler))
    await connection.request(REQUEST % 0, b"", soon(0.1))
    assert await connection.read(soon(0.1)) == b"a"
    await asyncio.sleep(0.2)
    asyncio.get_running_loop().call_later(0.05, go.set)
    assert await connection.read(soon()) == b"b"


async def test_a_head_that_comes_byte_by_byte_is_waited_for(serve: Serve, connect: Connect) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        for byte in HEAD % 1 + b"a":
            peer.send(bytes([byte]))
            await asyncio.sleep(0.001)
        await peer.client_left()

    connection = await connect(await serve(handler))
    await ask(connection)
    assert await connection.read(soon()) == b"a"


@pytest.mark.parametrize("unasked", [b"\r\n", b"x", HEAD % 0])
async def test_a_server_that_speaks_unasked_is_left(
    serve: Serve, connect: Connect, unasked: bytes
) -> None:
    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 0)
        await go.wait()
        peer.send(unasked)
        await peer.client_left()

    peers = await serve(handler)
    connection = await connect(peers)
    await ask(connection)
    assert connection.reusable
    connection.rest(60.0)
    go.set()
    await peers.wait_for_open(0)
    assert not connection.reusable


async def test_an_idle_connection_is_closed_in_time_and_not_before(
    serve: Serve, connect: Connect
) -> None:
    peers = await serve(answer_all)
    connection = await connect(peers)
    for seconds in (0.02, 0.3):
        await ask(connection)
        await connection.read(soon())
        connection.rest(seconds)
        if seconds > 0.1:
            break
        await ask(connection)  # in use again before that
        await asyncio.sleep(0.05)
        await connection.read(soon())
    assert peers.open == 1
    await peers.wait_for_open(0)


async def test_what_waits_fails_when_the_connection_is_closed_here(
    serve: Serve, connect: Connect
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.client_left()

    connection = await connect(await serve(handler))
    asyncio.get_running_loop().call_later(0.02, connection.abort)
    with pytest.raises(ConnectionLost) as caught:
        await ask(connection)
    assert caught.value.reason == "it was closed here"


# A sink -------------------------------------------------------------------------------------


async def send_on(peer: Peer, pieces: asyncio.Queue[bytes]) -> None:
    """A response of nine bytes, as a test brings them; an empty piece resets the connection."""
    await peer.request()
    peer.send(HEAD % 9)
    left = asyncio.create_task(peer.client_left())
    while not left.done():
        piece = asyncio.create_task(pieces.get())
        await asyncio.wait({left, piece}, return_when=asyncio.FIRST_COMPLETED)
        if not piece.done():
            piece.cancel()
        elif piece.result():
            peer.send(piece.result())
        else:
            peer.reset()
            await left


class Sink:
    """What came, and what is answered to it."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.pieces: list[bytes] = []
        self.came = asyncio.Event()
        self.tasks: list[object] = []
        self.seconds: float | None = seconds

    def __call__(self, data: bytes) -> float | None:
        self.pieces.append(data)
        self.tasks.append(asyncio.current_task())
        self.came.set()
        return None if self.seconds is None else soon(self.seconds)

    async def next(self) -> bytes:
        async with asyncio.timeout(10):
            await self.came.wait()
        self.came.clear()
        return self.pieces[-1]


async def test_a_sink_gets_each_piece_when_it_comes_and_wakes_nobody(
    serve: Serve, connect: Connect
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    sink = Sink()
    task = asyncio.create_task(connection.pass_on(sink, soon()))
    for piece in (b"abc", b"def", b"ghi"):
        pieces.put_nowait(piece)
        assert await sink.next() == piece
    await task
    assert sink.tasks == [None] * 3
    assert connection.at_end
    assert connection.reusable


async def test_a_sink_that_takes_no_more_gets_the_rest_when_it_is_asked_for(
    serve: Serve, connect: Connect
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    sink = Sink()
    sink.seconds = None
    for piece in (b"abc", b"defghi"):
        pieces.put_nowait(piece)
        await connection.pass_on(sink, soon())
    assert sink.pieces == [b"abc", b"defghi"]
    assert connection.at_end


async def test_a_sink_that_takes_no_more_holds_the_server_up(
    serve: Serve, connect: Connect
) -> None:
    flood, received = Flood(), 0

    def sink(data: bytes) -> float | None:
        nonlocal received
        received += len(data)
        return soon() if received > 1 else None

    connection = await connect(await serve(flood.send))
    await ask(connection)
    await connection.pass_on(lambda _: None, soon())
    await flood.held_up()
    await connection.pass_on(sink, soon())
    assert connection.at_end


async def test_what_a_sink_raises_ends_the_wait(serve: Serve, connect: Connect) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)

    def sink(data: bytes) -> float | None:
        raise ValueError(data)

    asyncio.get_running_loop().call_later(0.05, pieces.put_nowait, b"abc")
    with pytest.raises(ValueError, match="abc"):
        await connection.pass_on(sink, soon())


@pytest.mark.parametrize(("first", "then"), [(10.0, 0.05), (0.2, 0.05)])
async def test_a_sink_says_how_long_the_next_piece_is_waited_for(
    serve: Serve, connect: Connect, first: float, then: float
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    asyncio.get_running_loop().call_later(0.05, pieces.put_nowait, b"abc")
    sink = Sink(then)
    async with asyncio.timeout(5):
        with pytest.raises(BackendTimeout):
            await connection.pass_on(sink, soon(first))
    assert sink.pieces == [b"abc"]


async def test_pieces_put_the_deadline_off(serve: Serve, connect: Connect) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    sink = Sink()
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, pieces.put_nowait, b"abc")
    loop.call_later(0.4, pieces.put_nowait, b"defghi")
    await connection.pass_on(sink, soon(0.2))
    assert sink.pieces == [b"abc", b"defghi"]


async def test_what_came_before_a_connection_breaks_is_given(
    serve: Serve, connect: Connect
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    sink = Sink()
    pieces.put_nowait(b"abc")
    task = asyncio.create_task(connection.pass_on(sink, soon()))
    assert await sink.next() == b"abc"
    pieces.put_nowait(b"")
    with pytest.raises(ConnectionLost):
        await task


async def test_a_wait_that_was_cancelled_gives_nothing_more(serve: Serve, connect: Connect) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    connection = await connect(await serve(lambda peer: send_on(peer, pieces)))
    await ask(connection)
    sink = Sink()
    task = asyncio.create_task(connection.pass_on(sink, soon()))
    pieces.put_nowait(b"abc")
    await sink.next()
    task.cancel()
    connection.data_received(b"def")  # the task hasn't run yet
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.pieces == [b"abc"]
    assert await connection.read(soon()) == b"def"
