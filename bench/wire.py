"""Requests as bytes that are made beforehand, and what is read of their answers. No I/O.

An answer is read as far as its end and its tokens, so that one CPU does for the load, the engine
and more.
"""

from __future__ import annotations

import json
import re
from typing import Any

CHAT = "/v1/chat/completions"
STORY = "Write a short story about a lighthouse."
_STAMP = re.compile(rb"w(\d{15})")
_STAMP_SIZE = 16
_END = b"0\r\n\r\n"


def stamp(seconds: float) -> bytes:
    """A token that tells when the engine sent it."""
    return b"w%015d" % (seconds * 1e6)


def chat(*, stream: bool, tokens: int, prompt: str = STORY, **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "max_tokens": tokens, "stream": stream, **more}


def request(body: dict[str, Any], *, path: str = CHAT, secret: str | None = None) -> bytes:
    """A whole request."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    if secret is not None:
        lines.append(f"authorization: Bearer {secret}")
    return "\r\n".join([*lines, "", ""]).encode() + content


class Refused(RuntimeError):
    """A server answered with another status than 200."""


class AnswerReader:
    """Reads one HTTP answer: where its body begins, and where it ends."""

    def __init__(self) -> None:
        self.ended = False
        self._head: bytes | None = b""
        self._tail = b""
        self._left: int | None = None  # bytes of a body whose length is known

    def feed(self, data: bytes) -> bytes:
        """Take what came; give what of it belongs to the body.

        Raises:
            Refused: the status isn't 200.
        """
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return b""
            self._read_head(head, data)
        if self._left is not None:
            self._left -= len(data)
            self.ended = self._left <= 0
        else:
            self._tail = (self._tail + data[-len(_END) :])[-len(_END) :]
            self.ended = self._tail == _END
        return data

    def _read_head(self, head: bytes, body: bytes) -> None:
        self._head = None
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Refused((head + b" " + body)[:600].decode(errors="replace"))
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._left = int(line[15:])


class StampReader:
    """Finds the stamps in a stream, also those that two reads share."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[float]:
        """Take what came; give the moments at which its tokens were sent."""
        data = self._rest + data
        moments, end = [], 0
        for found in _STAMP.finditer(data):
            moments.append(int(found[1]) / 1e6)
            end = found.end()
        self._rest = data[max(end, len(data) - _STAMP_SIZE + 1) :]
        return moments
