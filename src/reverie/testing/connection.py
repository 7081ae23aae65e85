"""One connection of a scripted engine: requests off the wire, bytes onto it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeAlias, cast

from reverie.testing.wire import CONTINUE, BadRequest, Request, RequestReader

Handler: TypeAlias = "Callable[[Connection, Request], Coroutine[Any, Any, None] | None]"
"""Answers a request: at once, or in a coroutine, which is cancelled when the client leaves."""

_LINGER_0 = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Passes requests to ``handle`` in order, one at a time.

    Args:
        number: counts the engine's connections, from 1.
        handle: answers a request.
        opened: called once connected.
        client_left: called when the client has disconnected, before the handler is cancelled.
        closed: called once the connection is closed.
    """

    def __init__(
        self,
        number: int,
        *,
        handle: Handler,
        opened: Callable[[Connection], None],
        client_left: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self.number = number
        self._handle = handle
        self._opened = opened
        self._client_left = client_left
        self._closed = closed
        self._lost = asyncio.Event()
        self._reader = RequestReader()
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # Called by the handler ----------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until a slow client has taken what was sent."""
        await self._writable.wait()

    def close(self, how: Literal["reset", "close"] = "close") -> None:
        """Close the connection: after delivering what was sent, or with a reset (RST).

        A Unix socket has no reset: there the client sees the end of the stream, or ``ECONNRESET``
        if something that it sent was never read.
        """
        if self._transport is None:
            return
        if how == "close":
            self._transport.close()
            return
        sock = self._transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it is being closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._transport.abort()

    def abort(self) -> None:
        """Stop answering and reset the connection."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        self.close("reset")

    async def wait_closed(self) -> None:
        """Wait until the handler has ended and the connection is closed."""
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._lost.wait()

    # Called by the event loop -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._waiting += self._reader.feed(data)
        except BadRequest:
            self.close()
            return
        if self._reader.expects_continue:
            self._reader.expects_continue = False
            self.send(CONTINUE)
        self._handle_next()

    def eof_received(self) -> None:
        self._leave()  # returning None has the transport closed

    def connection_lost(self, _error: Exception | None) -> None:
        self._leave()
        self._transport = None
        self._closed(self)
        self._lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _leave(self) -> None:
        self._waiting.clear()
        self._client_left(self)
        if self._task is not None:
            self._task.cancel()

    def _handle_next(self) -> None:
        """Take the next request, unless one is being answered."""
        while self._task is None and self._waiting:
            try:
                answering = self._handle(self, self._waiting.popleft())
            except Exception as error:
                self._fail(error)
                return
            if answering is not None:
                self._task = asyncio.get_running_loop().create_task(answering)
                self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._handle_next()

    def _fail(self, error: BaseException) -> None:
        """A bug in a script's function or in this package: report it, and don't hang the client."""
        self.close("reset")
        asyncio.get_running_loop().call_exception_handler(
            {"message": "A scripted engine's answer failed", "exception": error}
        )
