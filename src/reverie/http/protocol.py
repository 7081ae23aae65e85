"""uvicorn's HTTP/1.1 protocol, with the bounds that it leaves to a proxy in front.

- A request's head must arrive within ``HEAD_TIMEOUT`` seconds and ``MAX_HEAD_BYTES`` bytes.
- A body that nobody reads any more (the answer is out: 401, 413) is discarded, so that the client
  gets to read the answer; past ``MAX_DISCARDED_BYTES`` the connection is closed.
- What isn't HTTP is answered in the shape of CONTRACT §6, as everything else is.
- ``close_after(scope)`` closes a connection whose answer has already begun; ``drop(scope)`` doesn't
  wait for its client to take the rest.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reverie.errors import InvalidRequest, ReverieError
from reverie.http.dialects.openai import OPENAI
from reverie.http.exchange import Scope

HEAD_TIMEOUT = 30.0
MAX_HEAD_BYTES = 64 * 1024
MAX_DISCARDED_BYTES = 64 * 1024 * 1024

_CLOSE = "reverie.close"
_DROP = "reverie.drop"


class _HeadTooLarge(ReverieError):
    status = 431
    code = "request_too_large"
    type = "invalid_request_error"


def close_after(scope: Scope) -> None:
    """Close the connection once the answer that is under way is complete.

    A header can't say so any more, since it has been sent. Without effect on other servers.
    """
    close = scope.get("extensions", {}).get(_CLOSE)
    if close is not None:
        close()


async def drop(scope: Scope) -> None:
    """Close the connection at once, with all that its client hasn't taken.

    Closing it in good order would wait for a client that reads no more. Without effect on other
    servers.
    """
    abort = scope.get("extensions", {}).get(_DROP)
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # for uvicorn to learn of it: an unfinished answer is no bug now


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _discarded = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_HeadTooLarge(f"Headers may have at most {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()
        extensions: Any = {_CLOSE: self._close_after_answer, _DROP: self.transport.abort}
        self.scope["extensions"] = extensions
        self._discarded = 0

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > MAX_DISCARDED_BYTES:
                self.transport.close()
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))

    def _close_after_answer(self) -> None:
        self.cycle.keep_alive = False

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._head_is_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _refuse(self, error: ReverieError) -> None:
        """Answer outside any exchange, then close."""
        self._head_arrived()
        if self.transport.is_closing():
            return
        body = OPENAI.error_body(error)
        status = OPENAI.status(error)
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req_{uuid.uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def as_http_class() -> Any:
    """The class, typed as uvicorn's configuration wants it."""
    return Protocol
