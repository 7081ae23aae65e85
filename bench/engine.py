"""An engine that costs next to nothing: OpenAI's streams, from bytes that were made beforehand.

``reverie.testing`` checks what it is asked, scripts faults and keeps records; under full load that
would be what is measured. This one reads ``stream`` and ``max_tokens`` and nothing else. An answer
of up to 16 tokens leaves in one write; a longer one in a write for each token, a turn of the event
loop apart or as many seconds as it is told, since that is what a gateway is for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from functools import cache
from typing import Any

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": *(\d+)')
_STREAM = re.compile(rb'"stream": *true')
_IN_ONE_WRITE = 16
_PROMPT_TOKENS = 12
_COMMON = {"id": "chatcmpl-1", "created": 1795392196, "model": "m"}


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": _PROMPT_TOKENS + tokens,
    }


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: %s\n\n" % json.dumps(event, separators=(",", ":")).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def _stream(tokens: int) -> list[bytes]:
    """The writes of a streamed answer."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    first = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
    other = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    pieces = [_event([first])] + [_event([other])] * (tokens - 1)
    end = _event([last]) + _event([], usage=_usage(tokens)) + b"data: [DONE]\n\n"
    if tokens <= _IN_ONE_WRITE:
        return [head + _chunk(b"".join(pieces) + end) + b"0\r\n\r\n"]
    writes = [_chunk(piece) for piece in pieces]
    writes[0] = head + writes[0]
    writes[-1] += _chunk(end) + b"0\r\n\r\n"
    return writes


@cache
def _answer(tokens: int) -> bytes:
    """An answer that isn't streamed."""
    message = {"role": "assistant", "content": "a" + " word" * (tokens - 1)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)}
    body = json.dumps(whole).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class _Connection(asyncio.Protocol):
    def __init__(self, gap: float) -> None:
        self._gap = gap
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
        asked = _TOKENS.search(body)
        tokens = int(asked[1]) if asked else _IN_ONE_WRITE
        if _STREAM.search(body):
            self._write(_stream(tokens), 0)
        else:
            self._transport.write(_answer(tokens))

    def _write(self, writes: list[bytes], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(writes[number])
        if number + 1 < len(writes):
            self._loop.call_later(self._gap, self._write, writes, number + 1)


async def _serve(gap: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(gap), "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between two writes")
    uvloop.run(_serve(parser.parse_args().gap))
