from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from reverie.errors import AnswerCancelled, ClientGone
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.stream_writer import PING, StreamWriter
from reverie.pending import done
from tests.http.connection.test_exchange import Client


def writer(
    client: Client,
    *,
    commit: float = 5,
    ping: float = 5,
    write: float = 5,
    write_chunk: Callable[[bytes], bool] | None = None,
) -> StreamWriter:
    return StreamWriter(
        client.send,
        [],
        commit_delay=commit,
        ping_interval=ping,
        write_timeout=write,
        write_chunk=write_chunk,
    )


async def test_the_status_stays_open_until_the_first_bytes() -> None:
    client = Client()
    async with CancelScope() as cancel_scope:
        stream = writer(client)
        stream.start(cancel_scope)
        assert not stream.opened
        await done(stream.write(b"data: 1\n\n"))
        await done(stream.write(b"data: 2\n\n", last=True))
        await stream.stop()
    assert [m["type"] for m in client.got] == ["http.response.start"] + ["http.response.body"] * 2
    assert [m.get("more_body") for m in client.got[1:]] == [True, False]


async def test_silence_is_bridged_by_comments() -> None:
    client = Client()
    async with CancelScope() as cancel_scope:
        stream = writer(client, commit=0.01, ping=0.01)
        stream.start(cancel_scope)
        while client.body.count(PING) < 3:
            await asyncio.sleep(0.005)
        assert stream.opened
        await stream.stop()
    before = len(client.got)
    await asyncio.sleep(0.03)
    assert len(client.got) == before


async def test_a_client_that_stops_reading_ends_the_request() -> None:
    client = Client()
    stream = writer(client, commit=0.01, ping=0.01, write=0.03)
    with pytest.raises(ClientGone):
        async with CancelScope() as cancel_scope:
            stream.start(cancel_scope)
            client.reading.clear()
            await done(stream.write(b"data: 1\n\n"))
    await stream.stop()


async def test_a_piece_in_the_midst_is_written_at_once_unless_the_client_is_waited_for() -> None:
    client, free = Client(), True

    def write_chunk(data: bytes) -> bool:
        if free:
            client.got.append({"type": "http.response.body", "body": data, "direct": True})
        return free

    stream = writer(client, write_chunk=write_chunk)
    await done(stream.write(b"first"))
    assert stream.write(b"second") is None
    free = False
    pending = stream.write(b"third")
    assert pending is not None
    await done(pending)
    free = True
    await done(stream.write(b"last", last=True))
    assert [(one["body"], "direct" in one) for one in client.got[1:]] == [
        (b"first", False),
        (b"second", True),
        (b"third", False),
        (b"last", False),
    ]


async def test_nothing_is_written_into_a_comment_that_opens_the_stream() -> None:
    client, direct = Client(), list[bytes]()

    def write_chunk(data: bytes) -> bool:
        direct.append(data)
        return True

    async with CancelScope() as cancel_scope:
        stream = writer(client, commit=0.01, write_chunk=write_chunk)
        client.reading.clear()
        stream.start(cancel_scope)
        while not client.offered:
            await asyncio.sleep(0.005)
        pending = stream.write(b"first")
        assert not direct
        client.reading.set()
        await done(pending)
        await stream.stop()
    assert client.body == PING + b"first"


async def test_a_stream_that_ends_before_its_head_could_be_sent_may_still_be_refused() -> None:
    client = Client()
    stream = writer(client)
    client.reading.clear()
    with pytest.raises(AnswerCancelled):
        async with CancelScope() as cancel_scope:
            stream.start(cancel_scope)
            asyncio.get_running_loop().call_soon(cancel_scope.end, AnswerCancelled())
            await done(stream.write(b"data: 1\n\n"))
    await stream.stop()
    assert (client.got, stream.opened) == ([], False)
