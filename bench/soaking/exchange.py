"""One request of a client and what became of it: how its answer is read, and how it may fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp

from soaking.dialects import Dialect, Told
from soaking.site import Gateway


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    gateway: Gateway
    told: Told
    how: str = "cut"
    """``whole``, ``left`` (the client did), ``broken`` (by its dialect's own error), ``cut``,
    ``unreached``, or a status."""
    code: str = ""
    tokens: int = 0
    """Of text that its stream brought."""
    began: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Note how a connection failed, if it does so in this block."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            self.how = "unreached"
        except (aiohttp.ClientError, OSError):
            self.how = "cut"


async def read_answer(
    response: aiohttp.ClientResponse,
    dialect: Dialect,
    exchange: Exchange,
    after: int | None,
    *,
    slowly: bool,
) -> None:
    """Read an answer to its end, or until the client has enough."""
    told = exchange.told
    if response.content_type not in ("text/event-stream", "application/x-ndjson"):
        read = json.loads(await response.read())
        if response.status != 200:
            exchange.how = str(response.status)
            told_code = Told()
            dialect.read({"type": "error", **read}, told_code)
            exchange.code = told_code.error
            return
        dialect.read(read, told)
        told.ended = not told.error
        exchange.how = "whole" if told.ended else "broken"
        return
    rest, number, seen, had = b"", "", 0, told.delivered
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                number = line[4:].decode()
            if not _take(line, dialect, told):
                continue
            told.last_event = number
            seen += 1
            if after is not None and seen >= after and not told.ended:
                exchange.how = "left"
                return
        if slowly:
            await asyncio.sleep(0.05)
    exchange.tokens = told.delivered - had
    exchange.how = "whole" if told.ended else "broken" if told.error else "cut"


def _take(line: bytes, dialect: Dialect, told: Told) -> bool:
    """Take a line of a stream; give whether it was an event."""
    if dialect.lines:
        event = line
    elif line.startswith(b"data: "):
        event = line[6:]
    else:
        return False
    if event == b"[DONE]":
        told.ended = True
    elif event:
        dialect.read(json.loads(event), told)
    return bool(event)
