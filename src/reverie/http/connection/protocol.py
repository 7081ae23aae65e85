"""uvicorn's HTTP/1.1 protocol, with the bounds that it leaves to a proxy in front.

- A request's head must arrive within ``HEAD_TIMEOUT`` seconds and ``MAX_HEAD_BYTES`` bytes.
- The rest of a body that was answered early (401, 413) is discarded, so that the client gets to
  read the answer; past ``MAX_DISCARDED_BYTES``, or after ``DISCARD_TIMEOUT`` seconds, the
  connection is closed. If it is to be closed in any case (``Connection: close``), our side of it is
  closed first: to close both while the client sends would make its system throw the answer away
  (RFC 9112 §9.6).
- At most ``MAX_WAITING`` pipelined requests wait for their turn. A client that leaves is noticed
  meanwhile, and none of them is begun.
- What isn't HTTP gets an error in the usual shape (docs/protocol.md#errors), and never in the
  middle of another request's answer.
- A request to switch protocols (``Upgrade: h2c``) is ignored, as RFC 9110 §7.8 allows. The parser
  would drop the request's body otherwise.
- HTTP/1.0 has no chunked encoding: a stream ends with its connection there.
- A client that reads nothing for ``STALL_TIMEOUT`` seconds is cut off, even if the connection only
  waits to be closed.
- ``close_after(scope)`` closes a connection whose answer has already begun; ``drop(scope)`` doesn't
  wait for its client to take the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from reverie.errors import InvalidRequest, ReverieError
from reverie.http.connection import extensions as extensions_of
from reverie.http.connection.exchange import Scope
from reverie.http.dialects.chat import OPENAI
from reverie.ids import random_id

HEAD_TIMEOUT = 30.0
MAX_HEAD_BYTES = 64 * 1024
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
DISCARD_TIMEOUT = 30.0
MAX_WAITING = 32
STALL_TIMEOUT = 300.0
LINGER = 1
"""Seconds from the end of a broken stream to the close of its connection. No header announced the
close, so a client that sends its next request at once would run into it."""

_CLOSE = "reverie.close"
_DROP = "reverie.drop"


class _HeadTooLarge(ReverieError):
    status = 431
    code = "request_too_large"
    type = "invalid_request_error"


def close_after(scope: Scope, stall_timeout: float) -> None:
    """Close the connection after the present answer, whose headers are sent already.

    The client has ``stall_timeout`` seconds to read what is left of it. No effect on other servers.
    """
    close = scope.get("extensions", {}).get(_CLOSE)
    if close is not None:
        close(stall_timeout)


async def drop(scope: Scope) -> None:
    """Close the connection at once, and discard what its client hasn't read.

    An orderly close would wait for a client that reads no more. No effect on other servers.
    """
    abort = scope.get("extensions", {}).get(_DROP)
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # for uvicorn to learn of it: an unfinished answer is no bug now


def _without_chunks(cycle: RequestResponseCycle) -> Any:
    """A ``send`` for ``cycle`` that ends an answer of unknown length with the connection."""
    has_length = True

    async def send(message: Any) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(name == b"content-length" for name, _ in message["headers"])
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await RequestResponseCycle.send(cycle, message)

    return send


def _chunk_writer(cycle: RequestResponseCycle) -> Callable[[bytes], bool]:
    """Writes a chunk in the midst of a stream without more ado, unless there is more to do."""
    flow, write = cycle.flow, cycle.transport.write

    def write_chunk(data: bytes) -> bool:
        if (
            flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
        ):
            return False
        write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    return write_chunk


def _close(cycle: RequestResponseCycle) -> None:
    """Undo what makes a cycle refer to itself: no request is to wait for the garbage collector."""
    cycle.on_disconnect = None  # type: ignore[attr-defined]
    cycle.write_chunk = None  # type: ignore[attr-defined]
    cycle.__dict__.pop("send", None)
    extensions_of.remove_from(cycle.scope["extensions"])


class _Parser(httptools.HttpRequestParser):
    """Returns the bytes after a head that asks to switch protocols to the HTTP parser."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._protocol.parse_again(data[upgrade.args[0] :])


class _OrderlyTransport:
    """The transport as a cycle sees it, which closes it at the end of its answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _discarded = 0
    _head_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _stall_timeout = STALL_TIMEOUT
    _reads_no_more = False
    """True once no more requests are read: what came is not HTTP, or too much, or our side of the
    connection is closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._unanswered: deque[RequestResponseCycle] = deque()

    # The connection -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._orderly: Any = _OrderlyTransport(transport, self._close_after_body)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_discard_timer()
        self._stop_stall_timer()
        for cycle in self._unanswered:  # uvicorn tells only the latest
            cycle.disconnected = True
            cycle.message_event.set()
            then = cycle.on_disconnect  # type: ignore[attr-defined]
            if then is not None:
                then()
            _close(cycle)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_stall_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_stall_timer()

    def data_received(self, data: bytes) -> None:
        if self._reads_no_more:
            self._discard(len(data))
            return
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_HeadTooLarge(f"Headers may have at most {MAX_HEAD_BYTES} bytes."))

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # What the parser finds ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self._unanswered) > MAX_WAITING:
            raise OverflowError  # nothing else stops the parser
        super().on_message_begin()
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        if self._asks_to_switch():
            return
        self._stop_head_timer()
        self.timeout_keep_alive = self.config.timeout_keep_alive
        super().on_headers_complete()
        extensions: Any = {_CLOSE: self._close_after_answer, _DROP: self.transport.abort}
        self.cycle.on_disconnect = None  # type: ignore[attr-defined]
        extensions_of.add_to(extensions, self.cycle)  # type: ignore[arg-type]
        self.scope["extensions"] = extensions
        self._discarded = 0
        self.cycle.transport = self._orderly
        self._unanswered.append(self.cycle)
        if self.scope["http_version"] == "1.0":
            self.cycle.write_chunk = None  # type: ignore[attr-defined]
            self.cycle.send = _without_chunks(self.cycle)  # type: ignore[method-assign]
        else:
            self.cycle.write_chunk = _chunk_writer(self.cycle)  # type: ignore[attr-defined]
        self.flow.resume_reading()  # or a client that leaves would not be noticed

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._asks_to_switch():
            return
        self._stop_discard_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        answered = self._unanswered.popleft()
        _close(answered)
        if answered.more_body and not self.transport.is_closing():
            self._start_discard_timer()
        if self._reads_no_more and not self._unanswered:
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self._stop_stall_timer()
            self._start_stall_timer()

    def parse_again(self, rest: bytes) -> None:
        """Parse the latest head once more, without its ``Upgrade`` header."""
        method = self.parser.get_method()
        if method == b"CONNECT":  # it switches protocols by itself, and never has a body
            return
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser.feed_data(b"\r\n".join([*head, b"", rest]))

    def _asks_to_switch(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    # How it ends ----------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._give_up(InvalidRequest("This is not a valid HTTP/1.1 request."))

    def _close_after_answer(self, stall_timeout: float) -> None:
        self.timeout_keep_alive = LINGER
        self._stall_timeout = stall_timeout

    def _close_after_body(self) -> None:
        """Close our side; close the other one once the client has sent what it is about to send."""
        cycle = self._unanswered[0] if self._unanswered else None
        if cycle is None or not (cycle.response_complete and cycle.more_body):
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self._close()
            return
        self._reads_no_more = True
        self.transport.write_eof()
        self._start_discard_timer()
        self.flow.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED_BYTES:
            self._close()

    def _start_discard_timer(self) -> None:
        if self._discard_timer is None:
            self._discard_timer = self.loop.call_later(DISCARD_TIMEOUT, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._start_stall_timer()

    def _start_stall_timer(self) -> None:
        if self._stall_timer is None and self.transport.get_write_buffer_size():
            self._stall_timer = self.loop.call_later(self._stall_timeout, self.transport.abort)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stop_discard_timer(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None

    def _start_head_timer(self) -> None:
        self._head_bytes = 0
        self._head_timer = asyncio.get_running_loop().call_later(
            HEAD_TIMEOUT, self._on_head_timeout
        )

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        self._give_up(None)

    def _give_up(self, error: ReverieError | None) -> None:
        """Read no more requests. Those that arrived whole are answered first; ``error`` is sent
        only if no client could take it for the answer to one of them.
        """
        self._reads_no_more = True
        self._stop_head_timer()
        whole = [cycle for cycle in self._unanswered if not cycle.more_body]
        if whole:
            whole[-1].keep_alive = False
        elif error is None or any(cycle.response_started for cycle in self._unanswered):
            self._close()
        else:
            self._refuse(error)

    def _refuse(self, error: ReverieError) -> None:
        """Answer outside any exchange, then close."""
        if self.transport.is_closing():
            return
        body = OPENAI.error_body(error)
        status = OPENAI.status(error)
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req_{random_id()}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._linger()


def as_http_class() -> Any:
    """The class, typed as uvicorn's configuration wants it."""
    return Protocol
