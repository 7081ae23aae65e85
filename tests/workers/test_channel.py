"""The control channel: what is told comes in order, what is asked is answered, ends are seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reverie.workers.channel import Answer, Channel, ChannelClosed, Tell


@asynccontextmanager
async def pair(
    tells: dict[str, Tell], answers: dict[str, Answer]
) -> AsyncIterator[tuple[Channel, Channel]]:
    """Two ends, the second of which does what it is told."""
    ends = Channel({}, {}), Channel(tells, answers)
    tasks = []
    for end, connection in zip(ends, socket.socketpair(), strict=True):
        connection.setblocking(False)
        connected = asyncio.Event()
        tasks.append(asyncio.create_task(end.run(connection, connected)))
        await connected.wait()
    try:
        yield ends
    finally:
        for end in ends:
            end.close()
        await asyncio.gather(*tasks)


async def echo(body: bytes) -> bytes:
    return body


async def test_what_is_told_is_handled_in_order_and_before_what_is_asked_later() -> None:
    told: list[bytes] = []

    async def so_far(_: bytes) -> bytes:
        return b" ".join(told)

    async with pair({"note": told.append}, {"so_far": so_far}) as (end, _):
        for number in range(3):
            end.tell("note", b"%d" % number)
        assert await end.ask("so_far") == b"0 1 2"


async def test_questions_are_answered_side_by_side_and_large_ones_whole() -> None:
    release = asyncio.Event()

    async def slow(body: bytes) -> bytes:
        await release.wait()
        return body

    async with pair({}, {"slow": slow, "echo": echo}) as (end, _):
        waiting = asyncio.create_task(end.ask("slow", b"first"))
        assert await end.ask("echo", b"x" * 1_000_000) == b"x" * 1_000_000
        assert not waiting.done()
        release.set()
        assert await waiting == b"first"


async def test_a_question_that_fails_or_takes_too_long_fails_for_who_asked() -> None:
    async def fails(_: bytes) -> bytes:
        raise ValueError("no")

    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with pair({}, {"fails": fails, "never": never, "echo": echo}) as (end, _):
        with pytest.raises(ChannelClosed, match="ValueError: no"):
            await end.ask("fails")
        with pytest.raises(TimeoutError):
            await end.ask("never", timeout=0.01)
        assert await end.ask("echo", b"still there") == b"still there"


async def test_who_waits_for_an_answer_learns_that_the_other_side_is_gone() -> None:
    asked = asyncio.Event()

    async def never(_: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with pair({}, {"never": never}) as (end, other):
        waiting = asyncio.create_task(end.ask("never"))
        await asked.wait()
        other.close()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await end.ask("never")
        end.tell("anything")  # nobody is there to be told
