"""Playing an answer onto a connection: in its time, in its pieces, with its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from typing import Literal, Protocol, TypeAlias

from reverie.testing.connection import Connection
from reverie.testing.render import PING, RenderedAnswer, error_event
from reverie.testing.script import Script
from reverie.testing.wire import CHUNKED_END, chunk

Framing: TypeAlias = Literal["chunked", "length", "until-close"]


class Cut(Exception):
    """The script breaks the answer off here."""


class BodyWriter:
    """Writes one response's body, cut where the script says.

    Args:
        head: the response's head; it leaves with the first bytes of the body.
    """

    def __init__(
        self, connection: Connection, script: Script, head: bytes, framing: Framing
    ) -> None:
        self._connection = connection
        self._script = script
        self._pending = head
        self._framing = framing
        self._position = 0

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send ``data``. After the ``last`` bytes nothing is waited for.

        Raises:
            Cut: ``die_at_byte`` is reached.
        """
        start = self._position
        die_at = self._script.die_at_byte
        dies = die_at is not None and die_at <= start + len(data)
        if dies and die_at is not None:
            data = data[: die_at - start]
        edges = [start, *self._cuts(start, start + len(data)), start + len(data)]
        for begin, end in pairwise(edges):
            ends = last and not dies and end == edges[-1]
            self._send(data[begin - start : end - start], ends=ends)
            self._position = end
            if end != edges[-1]:
                await turn(self._script.gap)
        if dies:
            raise Cut
        if not last:
            await self._connection.drain()

    async def die(self) -> None:
        """End the connection or the body as the script says."""
        if self._script.die_how == "end" and self._framing == "chunked":
            self._send(b"", ends=True)
            return
        await turn()  # so that what was sent is read before the connection breaks
        self._connection.close("reset" if self._script.die_how == "reset" else "close")

    def _send(self, piece: bytes, *, ends: bool) -> None:
        framed = chunk(piece) if self._framing == "chunked" else piece
        if ends and self._framing == "chunked":
            framed += CHUNKED_END
        self._connection.send(self._pending + framed)
        self._pending = b""

    def _cuts(self, start: int, end: int) -> Iterator[int]:
        """The offsets strictly between ``start`` and ``end`` at which a new piece begins."""
        if self._script.split is not None:
            size = self._script.split
            yield from range((start // size + 1) * size, end, size)
        else:
            yield from sorted(offset for offset in self._script.cuts if start < offset < end)


class Listener(Protocol):
    """Is told how the answer goes."""

    def on_tokens(self, count: int) -> None:
        """So many tokens have been made; the last ones are just about to be written."""

    def on_generated(self) -> None:
        """All that is left to write is the end."""

    async def on_stall(self) -> None:
        """The script stalls; returns when it may go on."""


async def play(
    script: Script, answer: RenderedAnswer, body: BodyWriter, listener: Listener
) -> bool:
    """Write the answer; return whether it was a whole one.

    Nothing is waited for after the last bytes, so that the caller can note the end before the
    client learns of it.
    """
    if script.delay_headers:
        await asyncio.sleep(script.delay_headers)
    try:
        if script.one_write:
            listener.on_tokens(len(answer.steps))
            listener.on_generated()
            await body.write(answer.whole, last=True)
            return True
        if answer.streamed:
            await body.write(answer.opening)
        if not await _play_tokens(script, answer, body, listener):
            return False
        listener.on_generated()
        await turn()
        await body.write(answer.closing, last=True)
    except Cut:
        await body.die()
        return False
    return True


async def _play_tokens(
    script: Script, answer: RenderedAnswer, body: BodyWriter, listener: Listener
) -> bool:
    """Write the tokens; return whether the answer may be closed as a whole one."""
    edges = _edges(script, len(answer.steps))
    for begin, end in zip_longest(edges, edges[1:]):
        if begin == script.stall_after:
            await _stall(script, answer, body, listener)
        if begin == script.die_after:
            raise Cut
        if script.error_in_stream is not None and begin == script.error_after and answer.streamed:
            await body.write(error_event(script), last=True)
            return False
        if end is not None:
            await turn(script.delay if begin else script.first_delay)
            listener.on_tokens(end)
            if answer.streamed:
                await body.write(b"".join(answer.steps[begin:end]))
    return True


def _edges(script: Script, count: int) -> list[int]:
    """Token counts at which a write begins, or something happens; the last one is the end."""
    marks = (script.stall_after, script.die_after, script.error_after)
    inside = {mark for mark in marks if mark is not None and mark <= count}
    return sorted({*range(0, count, script.batch or max(count, 1)), count, *inside})


async def _stall(
    script: Script, answer: RenderedAnswer, body: BodyWriter, listener: Listener
) -> None:
    if script.stall_pings is None or not answer.streamed:
        await listener.on_stall()
        return
    stall = asyncio.create_task(listener.on_stall())
    try:
        while not (await asyncio.wait({stall}, timeout=script.stall_pings))[0]:
            await body.write(PING)
    finally:
        stall.cancel()


async def turn(seconds: float = 0.0) -> None:
    """Wait, or let a client in this event loop read what was sent before more follows.

    That takes two turns of the loop: in the first one this task runs before the client's
    socket, which has only just become readable.
    """
    await asyncio.sleep(seconds)
    if not seconds:
        await asyncio.sleep(0)
