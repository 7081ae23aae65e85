"""Writes an answer to a connection with the script's pace, pieces and faults."""

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


class ScriptedDeath(Exception):
    """The script breaks the answer off here."""


class BodyWriter:
    """Writes the body of one response, cut where the script says.

    Args:
        head: the response's head; it is sent together with the first bytes of the body.
    """

    def __init__(
        self, connection: Connection, script: Script, head: bytes, framing: Framing
    ) -> None:
        self._connection = connection
        self._script = script
        self._unsent_head = head
        self._framing = framing
        self._position = 0

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send ``data``. Returns without waiting after the ``last`` bytes.

        Raises:
            ScriptedDeath: ``die_at_byte`` is reached.
        """
        start = self._position
        die_at = self._script.die_at_byte
        dies = die_at is not None and die_at <= start + len(data)
        if dies and die_at is not None:
            data = data[: die_at - start]
        bounds = [start, *self._cuts(start, start + len(data)), start + len(data)]
        for begin, end in pairwise(bounds):
            ends = last and not dies and end == bounds[-1]
            self._send(data[begin - start : end - start], ends=ends)
            self._position = end
            if end != bounds[-1]:
                await pause(self._script.gap)
        if dies:
            raise ScriptedDeath
        if not last:
            await self._connection.drain()

    async def die(self) -> None:
        """End the connection or the body as the script says."""
        if self._script.die_how == "end" and self._framing == "chunked":
            self._send(b"", ends=True)
            return
        await pause()  # so that what was sent is read before the connection breaks
        self._connection.close("reset" if self._script.die_how == "reset" else "close")

    def _send(self, piece: bytes, *, ends: bool) -> None:
        framed = chunk(piece) if self._framing == "chunked" else piece
        if ends and self._framing == "chunked":
            framed += CHUNKED_END
        self._connection.send(self._unsent_head + framed)
        self._unsent_head = b""

    def _cuts(self, start: int, end: int) -> Iterator[int]:
        """The offsets strictly between ``start`` and ``end`` at which a new piece begins."""
        if self._script.split is not None:
            size = self._script.split
            yield from range((start // size + 1) * size, end, size)
        else:
            yield from sorted(offset for offset in self._script.cuts if start < offset < end)


class Listener(Protocol):
    """Hears of the answer's progress."""

    def on_tokens(self, count: int) -> None:
        """``count`` tokens have been generated; the last of them are about to be written."""

    def on_all_tokens(self) -> None:
        """Only the end of the answer is left to write."""

    async def on_stall(self) -> None:
        """The script stalls; returns when the answer may continue."""


async def write_answer(
    script: Script, answer: RenderedAnswer, body: BodyWriter, listener: Listener
) -> bool:
    """Write the answer; return False if the script broke it off.

    Returns right after the last bytes, so that the caller can record the end before the client
    reads it.
    """
    if script.delay_headers:
        await asyncio.sleep(script.delay_headers)
    try:
        if script.one_write:
            listener.on_tokens(len(answer.tokens))
            listener.on_all_tokens()
            await body.write(answer.whole, last=True)
            return True
        if answer.streamed:
            await body.write(answer.opening)
        if not await _write_tokens(script, answer, body, listener):
            return False
        listener.on_all_tokens()
        await pause()
        await body.write(answer.closing, last=True)
    except ScriptedDeath:
        await body.die()
        return False
    return True


async def _write_tokens(
    script: Script, answer: RenderedAnswer, body: BodyWriter, listener: Listener
) -> bool:
    """Write the tokens; return False if an error event ended the answer."""
    bounds = _batch_bounds(script, len(answer.tokens))
    for begin, end in zip_longest(bounds, bounds[1:]):
        if begin == script.stall_after:
            await _stall(script, answer, body, listener)
        if begin == script.die_after:
            raise ScriptedDeath
        if script.error_in_stream is not None and begin == script.error_after and answer.streamed:
            await body.write(error_event(script), last=True)
            return False
        if end is not None:
            await pause(script.delay if begin else script.first_delay)
            listener.on_tokens(end)
            if answer.streamed:
                await body.write(b"".join(answer.tokens[begin:end]))
    return True


def _batch_bounds(script: Script, count: int) -> list[int]:
    """The token counts between 0 and ``count`` at which a write begins or a fault is due."""
    faults = (script.stall_after, script.die_after, script.error_after)
    due = {fault for fault in faults if fault is not None and fault <= count}
    return sorted({*range(0, count, script.batch or max(count, 1)), count, *due})


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


async def pause(seconds: float = 0.0) -> None:
    """Wait, so that a client in this event loop reads what was sent before more follows.

    Without a time it takes two iterations of the loop: in the first one this task runs before the
    client's socket, which has only just become readable.
    """
    await asyncio.sleep(seconds)
    if not seconds:
        await asyncio.sleep(0)
