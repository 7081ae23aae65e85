from __future__ import annotations

import asyncio
import time

import pytest

from reverie.errors import ClientGone, RequestTimeout, RequestTooLarge
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.exchange import (
    Message,
    Scope,
    read_body,
    respond,
)


class Client:
    """The client's side of ASGI: what it sends, and what it got."""

    def __init__(self, *messages: Message) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.inbox.put_nowait(message)
        self.got: list[Message] = []
        self.offered = 0
        self.reading = asyncio.Event()
        self.reading.set()

    async def receive(self) -> Message:
        return await self.inbox.get()

    async def send(self, message: Message) -> None:
        self.offered += 1
        await self.reading.wait()
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.got if m["type"] == "http.response.body")


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def scope(**headers: str) -> Scope:
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "headers": named}


async def test_a_body_in_parts_is_joined() -> None:
    client = Client(part(b"ab", more=True), part(b"", more=True), part(b"c"))
    assert await read_body(scope(), client.receive, limit=3, timeout=1) == b"abc"


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_read() -> None:
    client = Client()
    with pytest.raises(RequestTooLarge):
        await read_body(scope(content_length="4"), client.receive, limit=3, timeout=1)


async def test_a_body_that_grows_over_the_limit_is_refused() -> None:
    client = Client(part(b"ab", more=True), part(b"cd", more=True))
    with pytest.raises(RequestTooLarge):
        await read_body(scope(), client.receive, limit=3, timeout=1)


async def test_a_body_that_does_not_arrive_times_out() -> None:
    client = Client(part(b"a", more=True))
    with pytest.raises(RequestTimeout):
        await read_body(scope(), client.receive, limit=3, timeout=0.01)


async def test_a_client_that_leaves_while_sending_is_gone() -> None:
    client = Client(part(b"a", more=True), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await read_body(scope(), client.receive, limit=3, timeout=1)


async def test_only_the_first_reason_counts() -> None:
    with pytest.raises(ClientGone):
        async with CancelScope() as cancel_scope:
            cancel_scope.end(ClientGone("first"))
            cancel_scope.end(RequestTimeout("second"))
            await asyncio.sleep(5)


async def test_work_that_was_done_before_the_end_arrived_stays_done() -> None:
    async with CancelScope() as cancel_scope:
        cancel_scope.end(ClientGone("too late"))
    await asyncio.sleep(0)  # no cancellation is left behind
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    cancel_scope.end(ClientGone("later still"))
    await asyncio.sleep(0)


async def test_an_error_of_the_work_itself_is_not_replaced() -> None:
    with pytest.raises(ZeroDivisionError):
        async with CancelScope() as cancel_scope:
            cancel_scope.end(ClientGone("at the same time"))
            raise ZeroDivisionError
    await asyncio.sleep(0)


async def test_cancellation_from_elsewhere_passes_through() -> None:
    async def work() -> None:
        async with CancelScope():
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("begin", [0, 5, 300_000])
async def test_a_large_body_is_sent_piece_by_piece(begin: int) -> None:
    body = bytes(range(256)) * 1200
    client = Client()
    await respond(client.send, 200, body, [], begin=begin)
    start, *pieces = client.got
    assert dict(start["headers"])[b"content-length"] == b"%d" % (len(body) - begin)
    assert client.body == body[begin:]
    assert max(len(piece["body"]) for piece in pieces) <= 2**16
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]


@pytest.mark.parametrize("first", ["own", "outer"])
@pytest.mark.parametrize("done", [False, True])
async def test_a_cancellation_that_meets_the_blocks_own_end_passes_through(
    first: str, done: bool
) -> None:
    went_on = False

    async def run() -> None:
        nonlocal went_on
        task = asyncio.current_task()
        assert task is not None
        async with CancelScope() as cancel_scope:
            ends = [lambda: cancel_scope.end(ClientGone("gone")), task.cancel]
            for end in ends if first == "own" else reversed(ends):
                end()
            if not done:
                await asyncio.sleep(10)
        went_on = True

    task = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not went_on


async def test_a_block_within_a_deadline_leaves_the_deadline_its_error() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), CancelScope() as cancel_scope:
            asyncio.get_running_loop().call_later(0.01, cancel_scope.end, ClientGone("gone"))
            time.sleep(0.05)  # noqa: ASYNC251
            await asyncio.sleep(10)
