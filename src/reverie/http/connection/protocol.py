"""HTTP/1.1 on one connection, for uvicorn's server: requests off the wire, and how it all ends.

- A request's head must arrive within ``HEAD_TIMEOUT`` seconds and ``MAX_HEAD_BYTES`` bytes.
- What follows a body in chunks (trailers) is no part of the head, as RFC 9110 §6.5.1 has it. It is
  dropped: a proxy in front doesn't check it as it does the head. All that comes of a body without
  bringing a byte of it on has the bound of a head.
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

A request that comes and is answered at once sets no timer: those that wait for a head and for the
next request are set where there is something to wait for, and the latter is not set anew each time.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections import deque
from contextvars import Context
from functools import lru_cache
from typing import Any, NamedTuple

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from reverie.errors import InvalidRequest, ReverieError
from reverie.http.connection import extensions
from reverie.http.connection.cycle import Cycle
from reverie.http.connection.exchange import Scope
from reverie.http.dialects.chat import OPENAI
from reverie.ids import random_id

logger = logging.getLogger("reverie.request")

HEAD_TIMEOUT = 30.0
MAX_HEAD_BYTES = 64 * 1024
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
DISCARD_TIMEOUT = 30.0
MAX_WAITING = 32
STALL_TIMEOUT = 300.0
LINGER = 1
"""Seconds from the end of a broken stream to the close of its connection. No header announced the
close, so a client that sends its next request at once would run into it."""
_LONGEST_KNOWN_TARGET = 200


class _HeadTooLarge(ReverieError):
    status = 431
    code = "request_too_large"
    type = "invalid_request_error"


def close_after(scope: Scope, stall_timeout: float) -> None:
    """Close the connection after the present answer, whose headers are sent already.

    The client has ``stall_timeout`` seconds to read what is left of it. No effect on other servers.
    """
    exchange = extensions.exchange_of(scope)
    if exchange is not None:
        exchange.close_after(stall_timeout)


async def drop(scope: Scope) -> None:
    """Close the connection at once, and discard what its client hasn't read.

    An orderly close would wait for a client that reads no more. No effect on other servers.
    """
    exchange = extensions.exchange_of(scope)
    if exchange is not None:
        exchange.abort()
        await asyncio.sleep(0)  # for the cycle to learn of it: an unfinished answer is no bug now


class _Target(NamedTuple):
    """What a request asks for, as ASGI has it."""

    path: str
    raw_path: bytes
    query: bytes


def _parse_target(url: bytes) -> _Target:
    parsed = httptools.parse_url(url)
    raw_path = parsed.path or b"/"  # of "http://host", it is left out
    path = raw_path.decode("ascii")
    if "%" in path:
        path = urllib.parse.unquote(path)
    return _Target(path, raw_path, parsed.query or b"")


_known_target = lru_cache(maxsize=64)(_parse_target)


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


class Protocol(asyncio.Protocol):
    """One connection."""

    parser: _Parser
    transport: asyncio.Transport
    flow: FlowControl
    _client: tuple[str, int] | None
    _server: tuple[str, int | None] | None
    _url = b""
    _headers: list[tuple[bytes, bytes]]
    _expects_continue = False
    _in_head = False
    _head_bytes = 0
    """Bytes that came since the last that brought a head to its end, or a body on."""
    _discarded = 0
    _idle_since: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _stall_timeout = STALL_TIMEOUT
    _reads_no_more = False
    """True once no more requests are read: what came is not HTTP, or too much, or our side of the
    connection is closed."""
    _retires = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.parser = _Parser(self)
        # To answer early, and close, must not spoil what was sent ahead.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._app = config.loaded_app
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self._longest_idle = config.timeout_keep_alive
        self._idle_timeout: float = self._longest_idle
        self._state = server_state
        self._cycle: Cycle | None = None  # of the latest request
        self._unanswered: deque[Cycle] = deque()
        self._unbegun: deque[tuple[Cycle, Scope]] = deque()

    @property
    def default_head(self) -> bytes:
        """The lines that every head has: ``Date``."""
        return _joined(tuple(self._state.default_headers))

    # The connection -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._state.connections.add(self)  # type: ignore[arg-type]
        self.transport = transport
        self.flow = FlowControl(transport)
        self._server = get_local_addr(transport)
        self._client = get_remote_addr(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._stop_head_timer()
        self._stop_discard_timer()
        self._stop_stall_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for cycle in self._unanswered:
            cycle.disconnect()
        self._unanswered.clear()
        self._unbegun.clear()
        self._cycle = None  # which refers to this, as do those above
        self.flow.resume_writing()
        del self.parser  # which refers to this

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._start_stall_timer()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.transport.is_closing():
            self._stop_stall_timer()

    def data_received(self, data: bytes) -> None:
        if self._reads_no_more:
            self._discard(len(data))
            return
        self._idle_since = None
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            logger.warning("what came is not an HTTP request")
            self._give_up(InvalidRequest("This is not a valid HTTP/1.1 request."))
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_HeadTooLarge(f"Headers may have at most {MAX_HEAD_BYTES} bytes."))
        elif self._in_head and self._head_timer is None:
            self._start_head_timer()

    def shutdown(self) -> None:
        """Close the connection once the latest request is answered: uvicorn's server ends."""
        if self._cycle is None or self._cycle.response_complete:
            self.transport.close()
        else:
            self._cycle.keep_alive = False

    def retire(self) -> None:
        """Close the connection with the answer to the latest request, or else to the next one."""
        self._retires = True
        if not self.is_idle:
            self.shutdown()

    @property
    def is_idle(self) -> bool:
        """True if no request has come that isn't answered."""
        return self._cycle is None or self._cycle.response_complete

    @property
    def is_fresh(self) -> bool:
        """True if it has brought no request yet."""
        return self._cycle is None

    # What the parser finds ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self._unanswered) > MAX_WAITING:
            raise OverflowError  # nothing else stops the parser
        self._url = b""
        self._headers = []
        self._expects_continue = False
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._asks_to_switch():
            return
        self._in_head = False
        self._head_bytes = 0
        self._stop_head_timer()
        url, version = self._url, self.parser.get_http_version()
        known = len(url) <= _LONGEST_KNOWN_TARGET
        target = _known_target(url) if known else _parse_target(url)
        method = self.parser.get_method().decode("ascii")
        is_http_1_0 = version == "1.0"
        cycle = Cycle(
            self,
            method=method,
            is_http_1_0=is_http_1_0,
            keep_alive=not (is_http_1_0 or self._retires) and self.parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": method,
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": self._headers,
            "extensions": extensions.of_exchange(cycle),
        }
        self._idle_timeout = self._longest_idle
        self._discarded = 0
        self._cycle = cycle
        self._unanswered.append(cycle)
        if len(self._unanswered) == 1:
            self._begin(cycle, scope)
        else:
            self._unbegun.append((cycle, scope))

    def _begin(self, cycle: Cycle, scope: Scope) -> None:
        # The task of the request before may be running: what is bound to it isn't this one's.
        task = self.loop.create_task(cycle.run(self._app, scope), context=Context())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def on_body(self, body: bytes) -> None:
        cycle = self._cycle
        assert cycle is not None
        self._head_bytes = 0
        if cycle.response_complete:
            self._discard(len(body))
        elif cycle.add_body(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._asks_to_switch():
            return
        self._stop_discard_timer()
        self._head_bytes = 0
        assert self._cycle is not None
        if not self._cycle.response_complete:
            self._cycle.end_body()
        elif not self.transport.is_closing():
            self._wait_for_next()  # answered before its body was there

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one."""
        answered = self._unanswered.popleft()
        if answered.more_body and not self.transport.is_closing():
            self._start_discard_timer()
        if self._reads_no_more and not self._unanswered:
            return
        if self.transport.is_closing():
            self._stop_stall_timer()
            self._start_stall_timer()
            return
        self.flow.resume_reading()
        if self._unbegun:
            self._begin(*self._unbegun.popleft())
        else:
            self._wait_for_next()

    def parse_again(self, rest: bytes) -> None:
        """Parse the latest head once more, without its ``Upgrade`` header."""
        method = self.parser.get_method()
        if method == b"CONNECT":  # it switches protocols by itself, and never has a body
            return
        head = [b"%s %s HTTP/%s" % (method, self._url, self.parser.get_http_version().encode())]
        head += [b"%s: %s" % header for header in self._headers if header[0] != b"upgrade"]
        self.parser.feed_data(b"\r\n".join([*head, b"", rest]))

    def _asks_to_switch(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    # How it ends ----------------------------------------------------------------------------

    def close_after_answer(self, stall_timeout: float) -> None:
        """Close the connection some time after the end of the present answer."""
        self._idle_timeout = LINGER
        self._stall_timeout = stall_timeout

    def close_after_body(self) -> None:
        """Close our side; close the other one once the client has sent what it is about to send."""
        cycle = self._unanswered[0] if self._unanswered else None
        if cycle is None or not (cycle.response_complete and cycle.more_body):
            self._close()
        else:
            self._linger()

    def _wait_for_next(self) -> None:
        """Wait for the next request. A timer that runs already is not set anew: it looks again."""
        self._idle_since = self.loop.time()
        if self._idle_timer is not None and self._idle_timeout < self._longest_idle:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self._idle_timeout, self._on_idle_timer)

    def _on_idle_timer(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # a request runs, whose end sets the timer
        left = self._idle_since + self._idle_timeout - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._on_idle_timer)
        else:
            self._close()

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
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._on_head_timeout)

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
        elif self._cycle is not None and not self._unanswered and self._cycle.more_body:
            self._linger()  # it has its answer, which came early
        elif error is None or any(cycle.response_started for cycle in self._unanswered):
            self._close()
        else:
            self._refuse(error)

    def _refuse(self, error: ReverieError) -> None:
        """Answer outside any exchange, in place of one whose request didn't arrive whole; close."""
        if self.transport.is_closing():
            return
        for cycle in self._unanswered:
            cycle.disconnect()  # whatever it would answer, our side is closed by then
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


@lru_cache(maxsize=2)
def _joined(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def as_http_class() -> Any:
    """The class, typed as uvicorn's configuration wants it."""
    return Protocol
