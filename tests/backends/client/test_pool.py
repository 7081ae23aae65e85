"""Connections are kept for the next request, while they are worth it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from reverie.backends.client.address import Address
from reverie.backends.client.connection import Connection
from reverie.backends.client.pool import Pool
from reverie.errors import ConnectionLost
from tests.backends.peers import HEAD, Peer, Peers, Serve, answer_all

pytestmark = pytest.mark.integration

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
Open = Callable[..., Pool]


@pytest.fixture
async def open_pool() -> AsyncIterator[Open]:
    """``open_pool(peers, …)``: a pool that is closed at the end."""
    pools: list[Pool] = []

    def open_pool(peers: Peers, *, idle_seconds: float = 60.0, reuses: bool = True) -> Pool:
        address = Address.of(peers.url)
        pool = Pool(address, connect_timeout=5.0, reuses=reuses, idle_seconds=idle_seconds)
        pools.append(pool)
        return pool

    yield open_pool
    for pool in pools:
        await pool.close()


def soon() -> float:
    return asyncio.get_running_loop().time() + 10.0


async def used(connection: Connection) -> Connection:
    """The connection, after a request and its answer."""
    await connection.request(REQUEST, b"", soon())
    while await connection.read(soon()):
        pass
    return connection


async def test_the_connection_that_was_used_last_is_lent_first(
    serve: Serve, open_pool: Open
) -> None:
    pool = open_pool(await serve(answer_all))
    one, two, three = [await used(await pool.connect(soon())) for _ in range(3)]
    for connection in (one, three, two):
        pool.release(connection)
    assert [pool.take() for _ in range(4)] == [two, three, one, None]
    for connection in (one, two, three):
        pool.release(await used(connection))


async def test_a_connection_that_the_server_closed_is_never_lent(
    serve: Serve, open_pool: Open
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % 0)
        await asyncio.sleep(0.01)

    peers = await serve(handler)
    pool = open_pool(peers)
    pool.release(await used(await pool.connect(soon())))
    await peers.wait_for_open(0)
    await asyncio.sleep(0.05)
    assert pool.take() is None


async def test_an_idle_connection_is_closed(serve: Serve, open_pool: Open) -> None:
    peers = await serve(answer_all)
    pool = open_pool(peers, idle_seconds=0.05)
    pool.release(await used(await pool.connect(soon())))
    await peers.wait_for_open(0)
    assert pool.take() is None


async def test_a_response_that_was_not_read_to_its_end_closes_the_connection(
    serve: Serve, open_pool: Open
) -> None:
    peers = await serve(answer_all)
    pool = open_pool(peers)
    connection = await pool.connect(soon())
    await connection.request(REQUEST, b"", soon())
    pool.release(connection)
    assert pool.take() is None
    await peers.wait_for_open(0)


async def begun(pool: Pool) -> Connection:
    """A connection whose response's first piece has been read."""
    connection = await pool.connect(soon())
    await connection.request(REQUEST, b"", soon())
    assert await connection.read(soon()) == b"all that matters"
    return connection


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nall that matters\r\n"


async def test_a_response_whose_rest_is_read_over_leaves_a_connection_to_use_again(
    serve: Serve, open_pool: Open
) -> None:
    ends = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(CHUNKED)
        await ends.wait()
        peer.send(b"4\r\nrest\r\n")
        await asyncio.sleep(0)
        peer.send(b"0\r\n\r\n")
        await answer_all(peer)

    pool = open_pool(await serve(handler))
    connection = await begun(pool)
    pool.drain(connection)
    assert pool.take() is None
    ends.set()
    async with asyncio.timeout(10):
        while (kept := pool.take()) is None:
            await asyncio.sleep(0)
    assert kept is connection
    await kept.request(REQUEST, b"", soon())
    assert await kept.read(soon()) == b"0"
    pool.drain(kept)  # it has ended already
    assert pool.take() is kept


@pytest.mark.parametrize(
    "rest", [b"", b"4\r\nrest\r\n", b"no chunk\r\n", b"40000\r\n" + b"x" * 300_000]
)
async def test_a_response_that_is_read_over_and_never_ends_is_closed(
    serve: Serve, open_pool: Open, rest: bytes
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(CHUNKED + rest)
        await peer.client_left()

    peers = await serve(handler)
    pool = open_pool(peers)
    connection = await pool.connect(soon())
    await connection.request(REQUEST, b"", soon())
    pool.drain(connection)
    await peers.wait_for_open(0)
    assert pool.take() is None


async def test_a_server_that_leaves_while_its_response_is_read_over(
    serve: Serve, open_pool: Open
) -> None:
    leaves = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.send(CHUNKED)
        await leaves.wait()

    peers = await serve(handler)
    pool = open_pool(peers)
    pool.drain(await begun(pool))
    leaves.set()
    await peers.wait_for_open(0)
    assert pool.take() is None


async def test_nothing_is_kept_where_nothing_is_reused(serve: Serve, open_pool: Open) -> None:
    peers = await serve(answer_all)
    pool = open_pool(peers, reuses=False)
    pool.release(await used(await pool.connect(soon())))
    assert pool.take() is None
    await peers.wait_for_open(0)


async def test_closing_ends_all_connections(serve: Serve, open_pool: Open) -> None:
    peers = await serve(answer_all)
    pool = open_pool(peers)
    running = await used(await pool.connect(soon()))
    pool.release(await used(await pool.connect(soon())))
    await pool.close()
    await pool.close()
    await peers.wait_for_open(0)
    pool.release(running)
    assert pool.take() is None
    with pytest.raises(ConnectionLost):
        await pool.connect(soon())


async def test_closing_ends_a_connection_that_is_being_opened(serve: Serve) -> None:
    async def handler(peer: Peer) -> None:
        await peer.client_left()

    peers = await serve(handler)
    address = Address.of(f"https://localhost:{peers.port}/v1")
    pool = Pool(address, connect_timeout=60.0, reuses=True)
    connecting = asyncio.create_task(pool.connect(soon()))
    await peers.wait_for_open(1)
    await pool.close()
    with pytest.raises(ConnectionLost) as caught:
        await connecting
    assert caught.value.reason == "it is stopped"
    await peers.wait_for_open(0)
