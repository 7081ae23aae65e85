"""An engine that costs next to nothing: OpenAI's streams, from bytes that were made beforehand.

``reverie.testing`` checks what it is asked, scripts faults and keeps records; under full load that
would be what is measured. This one reads ``stream``, ``max_tokens`` and ``seed``, and nothing
else. An answer of up to 16 tokens leaves in one write; a longer one in a write for each token, a
turn of the event loop apart, since that is what a gateway is for. With a ``seed`` it waits so many
milliseconds between two tokens, and each token tells when it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from functools import cache
from typing import Any

import uvloop
from wire import stamp

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": *(\d+)')
_STREAM = re.compile(rb'"stream": *true')
_PAUSE = re.compile(rb'"seed": *(\d+)')
_IN_ONE_WRITE = 16
_TOO_LATE = 0.2
_TICK_MS = 5
"""The shorter it is, the fewer chunks leave in a burst, and the more turns of the loop it takes."""
_PROMPT_TOKENS = 12
_COMMON = {"id": "chatcmpl-1", "created": 1795392196, "model": "m"}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": _PROMPT_TOKENS + tokens,
    }


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: %s\n\n" % json.dumps(event, separators=(",", ":")).encode()


def _token(text: str, **more: str) -> bytes:
    return _event([{"index": 0, "delta": {**more, "content": text}, "finish_reason": None}])


def _end(tokens: int) -> bytes:
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return _event([last]) + _event([], usage=_usage(tokens)) + b"data: [DONE]\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def _stream(tokens: int) -> list[bytes]:
    """The writes of a streamed answer."""
    pieces = [_token("a", role="assistant")] + [_token(" word")] * (tokens - 1)
    if tokens <= _IN_ONE_WRITE:
        return [_HEAD + _chunk(b"".join(pieces) + _end(tokens)) + b"0\r\n\r\n"]
    writes = [_chunk(piece) for piece in pieces]
    writes[0] = _HEAD + writes[0]
    writes[-1] += _chunk(_end(tokens)) + b"0\r\n\r\n"
    return writes


@cache
def _answer(tokens: int) -> bytes:
    """An answer that isn't streamed."""
    message = {"role": "assistant", "content": "a" + " word" * (tokens - 1)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)}
    body = json.dumps(whole).encode()
    return _JSON % (len(body), body)


def _models() -> bytes:
    """What health checks and lists of models get."""
    body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
    return _JSON % (len(body), body)


_PLACEHOLDER = stamp(0)
_BEFORE, _AFTER = _chunk(_token(_PLACEHOLDER.decode())).split(_PLACEHOLDER)


class _Pace:
    """Streams with the same pause: one timer for all, which each time serves a part of them."""

    def __init__(self, pause_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[list[tuple[asyncio.Transport, int, int]]] = [
            [] for _ in range(max(1, pause_ms // _TICK_MS))
        ]
        self._tick_seconds = pause_ms / 1e3 / len(self._due)
        self._now = 0
        self._begun = self._loop.time()
        self._ticks = 0
        self._loop.call_soon(self._tick)

    def add(self, transport: asyncio.Transport, tokens: int) -> None:
        """Send the first token now, and each other after a pause."""
        transport.write(_HEAD + _BEFORE + stamp(time.perf_counter()) + _AFTER)
        self._due[self._now].append((transport, tokens - 1, tokens))

    def _tick(self) -> None:
        """Serve those whose turn it is, and come again for the next."""
        self._ticks += 1
        self._now = self._ticks % len(self._due)
        going = []
        for transport, left, tokens in self._due[self._now]:
            if transport.is_closing():
                continue
            if left:
                transport.write(_BEFORE + stamp(time.perf_counter()) + _AFTER)
                going.append((transport, left - 1, tokens))
            else:
                transport.write(_chunk(_end(tokens)) + b"0\r\n\r\n")
        self._due[self._now] = going
        late = self._loop.time() - self._begun - self._ticks * self._tick_seconds
        if late > _TOO_LATE:  # it can't keep the pace, which must not get worse for that
            self._begun += late
        self._loop.call_at(self._begun + self._ticks * self._tick_seconds, self._tick)


@cache
def _pace(pause_ms: int) -> _Pace:
    return _Pace(pause_ms)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, gap, rest = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not gap or len(rest) < size:
            return
        body, self._buffer = rest[:size], rest[size:]
        if head.startswith(b"GET "):
            self._transport.write(_models())
            return
        asked, pause = _TOKENS.search(body), _PAUSE.search(body)
        tokens = int(asked[1]) if asked else _IN_ONE_WRITE
        if not _STREAM.search(body):
            self._transport.write(_answer(tokens))
        elif pause:
            _pace(int(pause[1])).add(self._transport, tokens)
        else:
            self._write(_stream(tokens), 0)

    def _write(self, writes: list[bytes], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(writes[number])
        if number + 1 < len(writes):
            self._loop.call_soon(self._write, writes, number + 1)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    uvloop.run(_serve())
