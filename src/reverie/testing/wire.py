"""As much HTTP/1.1 as an engine needs, sans-IO: requests in, response heads out."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import httptools
from msgspec import Struct

CHUNKED_END = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequest(Exception):
    """The bytes aren't an HTTP/1.1 request, or ask for another protocol."""


class Request(Struct):
    method: str
    path: str
    """Without its query."""
    headers: dict[str, str]
    """Names in lower case."""
    http11: bool
    keep_alive: bool
    body: bytes


class RequestReader:
    """Reads the requests of one connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._complete: list[Request] = []
        self.expects_continue = False
        """The client waits for ``100 Continue`` with its body. Clear this once that is sent."""

    def feed(self, data: bytes) -> list[Request]:
        """Take bytes; return the requests that they complete.

        Raises:
            BadRequest
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BadRequest(str(error)) from error
        complete, self._complete = self._complete, []
        return complete

    # Called by the parser -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body.clear()

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        self.expects_continue = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self.expects_continue = False
        self._complete.append(
            Request(
                method=self._parser.get_method().decode(),
                path=self._url.partition(b"?")[0].decode("latin-1"),
                headers=self._headers,
                http11=self._parser.get_http_version() == "1.1",
                keep_alive=self._parser.should_keep_alive(),
                body=bytes(self._body),
            )
        )


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
