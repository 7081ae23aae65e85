"""One request on a connection and the answer to it, as ASGI has them: ``receive`` and ``send``.

Rule: an answer's head waits for the first bytes of its body, and both leave in one write: each
write is a call of the system. Only where no body follows at once does the head leave alone.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

from uvicorn.protocols.http.flow_control import FlowControl

from reverie.correlation import request_id
from reverie.log import fields

_Message: TypeAlias = MutableMapping[str, Any]
_Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

logger = logging.getLogger("reverie.request")

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}
_WITHOUT_BODY = frozenset({204, 304})
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"0\r\n\r\n"


class Connection(Protocol):
    """What a cycle needs of its connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl

    @property
    def default_head(self) -> bytes:
        """The lines that every head has: ``Date``."""

    def close_after_body(self) -> None:
        """Close it, once the client has sent the rest of the present request."""

    def close_after_answer(self, stall_timeout: float) -> None:
        """Close it some time after the end of the present answer."""

    def on_response_complete(self) -> None:
        """The answer to the oldest request that had none is complete."""


class Cycle:
    """A request and its answer."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_expects_continue",
        "_head",
        "_is_head",
        "_is_http_1_0",
        "_left",
        "_news",
        "_told",
        "body",
        "body_sent",
        "disconnected",
        "flow",
        "keep_alive",
        "more_body",
        "on_disconnect",
        "response_complete",
        "response_started",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        *,
        method: str,
        is_http_1_0: bool,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._connection = connection
        self.flow = connection.flow
        self.keep_alive = keep_alive
        self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        # The request
        self._expects_continue = expects_continue
        self.body: bytes | bytearray = b""
        self.more_body = True
        self._told = False  # something happened that was not received
        self._news: asyncio.Event | None = None
        # The answer
        self._is_head = method == "HEAD"
        self._is_http_1_0 = is_http_1_0
        self.status = 0
        self.body_sent = 0
        self.response_started = False
        self.response_complete = False
        self._head: bytes | None = None  # until it is written
        self._chunked = False
        self._left: int | None = None  # bytes of a body of known length

    # What the connection tells -----------------------------------------------------------------

    def add_body(self, body: bytes) -> int:
        """Note a piece of the request's body; return how much of it waits to be received."""
        if not self.body:
            self.body = body
        elif isinstance(self.body, bytearray):
            self.body += body
        else:
            self.body = bytearray(self.body)
            self.body += body
        self._tell()
        return len(self.body)

    def end_body(self) -> None:
        """Note that the request is complete."""
        self.more_body = False
        self._tell()

    def disconnect(self) -> None:
        """Note that the client is gone."""
        self.disconnected = True
        self._tell()
        then, self.on_disconnect = self.on_disconnect, None
        if then is not None:
            then()

    def _tell(self) -> None:
        self._told = True
        if self._news is not None:
            self._news.set()

    # What extensions ask ------------------------------------------------------------------------

    def close_after(self, stall_timeout: float) -> None:
        """Close the connection after this answer, whose headers are sent already."""
        self._connection.close_after_answer(stall_timeout)

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.transport.abort()

    def write_chunk(self, data: bytes) -> bool:
        """Write bytes in the midst of a stream at once.

        Returns:
            False: they are to be sent as ASGI has it, since there is more to do.
        """
        if (
            not self._chunked
            or self._head is not None
            or self.flow.write_paused
            or self.disconnected
            or self.response_complete
        ):
            return False
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.body_sent += len(data)
        return True

    # ASGI --------------------------------------------------------------------------------------

    async def run(self, app: _Application, scope: Any) -> None:
        """Have the application answer."""
        try:
            await app(scope, self.receive, self.send)
        except BaseException as failure:
            logger.error(
                "a request failed in Reverie itself",
                exc_info=failure,
                extra=fields(id=request_id()),
            )
            await self._end_badly()
        else:
            if not self.response_complete and not self.disconnected:
                logger.error(
                    "a request was not answered, or only in part", extra=fields(id=request_id())
                )
                await self._end_badly()

    async def _end_badly(self) -> None:
        if self.response_started and self._head is None:
            self._connection.close_after_body()
            return
        self.response_started = self._chunked = False  # nothing of it was written
        self._left = self._head = None
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        headers.append((b"content-length", b"%d" % len(body)))
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> _Message:
        """ASGI's ``receive``."""
        if self._expects_continue and not self._connection.transport.is_closing():
            self._connection.transport.write(_CONTINUE)
            self._expects_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            if not self._told:
                if self._news is None:
                    self._news = asyncio.Event()
                self._news.clear()
                await self._news.wait()
            self._told = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: _Message) -> None:
        """ASGI's ``send``. It waits while the client doesn't read."""
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if more and body and self.write_chunk(body):
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.body":
            self._write(body, more=more)
        else:
            self._begin(message["status"], message.get("headers", ()))

    def _begin(self, status: int, headers: Any) -> None:
        """Make the head, and have it written together with what comes next."""
        if self.response_started:
            raise RuntimeError("The answer has begun already.")
        lines: list[bytes] = []
        closes = False
        for name, value in headers:
            name = name.lower()
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and b"close" in value.lower():
                closes, self.keep_alive = True, False
            lines.append(b"%b: %b\r\n" % (name, value))
        given = b"".join(lines)
        if given.count(b"\n") != len(lines) or given.count(b"\r") != len(lines):
            raise RuntimeError("A header has a line break.")
        if _CONTROL.search(given):
            raise RuntimeError("A header has a control character.")
        self.response_started = True
        self.status = status
        self._expects_continue = False
        end = b"\r\n" if self.keep_alive or closes else b"connection: close\r\n\r\n"
        if self._is_head or status in _WITHOUT_BODY:
            self._left = 0
        elif self._left is None and not self._is_http_1_0:
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n" + end
        self._head = b"".join((_STATUS_LINES[status], self._connection.default_head, given, end))
        if self._left is None:  # a stream may have nothing to say yet
            self._connection.loop.call_soon(self._write_head)

    def _write_head(self) -> None:
        if self._head is not None and not self.disconnected:
            head, self._head = self._head, None
            self._connection.transport.write(head)

    def _write(self, body: bytes, *, more: bool) -> None:
        if not self.response_started or self.response_complete:
            raise RuntimeError("There is no answer that this could be a part of.")
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += _END
        else:
            data = self._of_known_length(body, more=more)
        if not self._is_head:
            self.body_sent += len(body)
        if self._head is not None:
            data = self._head + data
            self._head = None
        if data:
            self._connection.transport.write(data)
        if not more:
            self.response_complete = True
            self._tell()
            if not self.keep_alive:
                self._connection.close_after_body()
            self._connection.on_response_complete()

    def _of_known_length(self, body: bytes, *, more: bool) -> bytes:
        if self._is_head:
            return b""
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The answer is not as long as its content-length says.")
        return body
