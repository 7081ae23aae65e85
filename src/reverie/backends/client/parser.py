"""Responses off the wire, sans-IO: bytes in, a head and the pieces of a body out.

Rule 1: the result depends on the bytes alone, never on how they were cut into reads.

Rule 2: what a server says beside head and body (interim responses, extensions, trailers) is read
over, and bounded.

Rule 3: what can't be understood is refused, never guessed: two lengths, a coding that nobody asked
for, another protocol. Sloppy line ends, spaces and characters are understood.
"""

from __future__ import annotations

import httptools

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of all else that comes without a piece of the body."""

_CODING = b"transfer-encoding"
_CHUNKED = b"chunked"
_CODINGS = frozenset({_CHUNKED, b"identity"})


class MalformedResponse(Exception):
    """The bytes are no response that can be read. It tells why, without any of them."""


class ResponseParser:
    """Reads the responses of one connection, one after the other: ``begin`` comes before each."""

    __slots__ = (
        "_interim",
        "_parser",
        "_refusal",
        "_surplus",
        "_until_close",
        "body",
        "ended",
        "headers",
        "on_body",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self.body: list[bytes] = []
        """The pieces of the body that nobody has taken yet. Take them out of this list."""
        self.on_body = self.body.append
        self._parser = httptools.HttpResponseParser(self)
        # What some servers get wrong and nearly every client takes. None of it moves a body's end.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.begin()

    def begin(self) -> None:
        """Await a response."""
        self.status = 0
        """0 until the head is complete."""
        self.headers: dict[bytes, bytes] = {}
        """By names in lower case. Of what came several times, the first."""
        self.ended = False
        """True once the body is complete."""
        self.reusable = False
        """True if it ended, nothing followed it, and the server keeps the connection open."""
        self._interim = False
        self._until_close = False
        self._surplus = 0  # bytes since the last piece of the body
        self._refusal = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Raises:
            MalformedResponse: the response can't be read. What was read of its body is good.
        """
        pieces = len(self.body)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.ended:  # bytes that belong to no response
                self.reusable = False
                return
            reason = self._refusal or str(error) or type(error).__name__
            raise MalformedResponse(reason) from None
        if self.ended or len(self.body) != pieces:
            self._surplus = 0
            return
        self._surplus += len(data)
        if self._surplus > MAX_HEAD_BYTES:
            raise MalformedResponse("too many bytes without a body")

    def finish(self) -> bool:
        """Take the connection's orderly end; True if that completes the response."""
        if self._until_close:
            self.ended = True
        return self.ended

    def close(self) -> None:
        """Take no more bytes. The library's parser and this refer to each other until then."""
        del self._parser

    # Called by the parser -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.ended:
            raise self._refuse("bytes after the end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        if self.headers.setdefault(name.lower(), value) is not value and name.lower() == _CODING:
            raise self._refuse("two transfer codings")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise self._refuse("another protocol")
        if status < 200:
            self._interim = True
            self.headers = {}
            return
        headers = self.headers
        if sum(map(len, headers)) + sum(map(len, headers.values())) > MAX_HEAD_BYTES:
            raise self._refuse("a head that is too large")
        coding = headers.get(_CODING, b"identity").strip().lower()
        if coding not in _CODINGS:
            raise self._refuse("an unknown transfer coding")
        bodiless = status in (204, 304)
        self._until_close = coding != _CHUNKED and not bodiless and b"content-length" not in headers
        self.status = status

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self.ended = True
        self.reusable = self._parser.should_keep_alive()

    def _refuse(self, reason: str) -> MalformedResponse:
        self._refusal = reason
        return MalformedResponse(reason)
