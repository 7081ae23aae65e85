"""As much HTTP/1.1 as an engine needs, sans-IO: requests in, response heads out."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from msgspec import Struct

MAX_HEAD_BYTES = 64 * 1024

CHUNKED_END = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequest(Exception):
    """The bytes aren't an HTTP/1.1 request."""


class Request(Struct):
    method: str
    path: str
    """Without its query."""
    headers: dict[str, str]
    """Names in lower case."""
    http11: bool
    body: bytes = b""

    @property
    def keep_alive(self) -> bool:
        return self.http11 and self.headers.get("connection", "").lower() != "close"


class RequestReader:
    """Reads the requests of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None  # read up to its body
        self._chunked = False
        self._length = 0
        self._chunks = bytearray()
        self.expects_continue = False
        """The client waits for ``100 Continue`` with its body. Clear this once that is sent."""

    def feed(self, data: bytes) -> list[Request]:
        """Take bytes; return the requests that they complete.

        Raises:
            BadRequest: they aren't HTTP.
        """
        self._buffer += data
        complete: list[Request] = []
        while (request := self._next()) is not None:
            complete.append(request)
        return complete

    def _next(self) -> Request | None:
        if self._request is None and not self._read_head():
            return None
        body = self._read_chunks() if self._chunked else self._read_length()
        if body is None:
            return None
        request, self._request = self._request, None
        assert request is not None
        request.body = body
        self.expects_continue = False
        return request

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequest("the head is too large")
            return False
        start, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        parts = start.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise BadRequest("no request line")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest("a header without a colon")
            headers[name.lower()] = value.strip()
        path = parts[1].partition("?")[0]
        self._request = Request(parts[0], path, headers, parts[2] == "HTTP/1.1")
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._length = _number(headers.get("content-length", "0"), 10)
        self._chunks.clear()
        self.expects_continue = headers.get("expect", "").lower() == "100-continue"
        return True

    def _read_length(self) -> bytes | None:
        if len(self._buffer) < self._length:
            return None
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return body

    def _read_chunks(self) -> bytes | None:
        while (line_end := self._buffer.find(b"\r\n")) >= 0:
            size = _number(self._buffer[:line_end].split(b";")[0].decode("latin-1"), 16)
            if size == 0:
                # Trailers may stand before the empty line; they are ignored.
                end = self._buffer.find(b"\r\n\r\n", line_end)
                if end < 0:
                    return None
                del self._buffer[: end + 4]
                return bytes(self._chunks)
            end = line_end + 2 + size
            if len(self._buffer) < end + 2:
                return None
            self._chunks += self._buffer[line_end + 2 : end]
            del self._buffer[: end + 2]
        return None


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and the headers, with the blank line that ends them."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk of a chunked body; empty for no data, since an empty chunk ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _number(text: str, base: int) -> int:
    try:
        number = int(text.strip(), base)
    except ValueError:
        raise BadRequest("a length that is no number") from None
    if number < 0:
        raise BadRequest("a negative length")
    return number
