"""One connection to a server: a request at a time goes out, its response comes in.

Rule 1: all that has arrived is read at once, and a reader is woken only if it waits. No task, no
timer and no copy for a piece of a body. A sink gets it without anybody being woken.

Rule 2: every wait has a deadline, but one timer serves them all: unless a deadline comes earlier,
it is set again only when it fires. It also closes the connection once that has been idle for long.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TypeAlias, cast

from reverie.backends.client.parser import MalformedResponse, ResponseParser
from reverie.errors import BackendError, BackendTimeout, ConnectionLost

_LARGE_BODY = 512 * 1024
"""Bytes from which a request is sent in parts, so that other requests' tokens go out in between."""
_PART = 64 * 1024
_MAX_UNREAD = 256 * 1024
"""Bytes that nobody has read yet from which no more are taken off the wire."""

Sink: TypeAlias = Callable[[bytes], float | None]
"""Takes the next bytes of a body, as soon as they arrive. Returns until when, on the loop's clock,
more is waited for; None: it takes no more for now."""


class Connection(asyncio.Protocol):
    """Not for two requests at once.

    Args:
        on_lost: called once the connection is closed, whoever closed it, and once it can't be
            used again while it is idle.
    """

    __slots__ = (
        "_deadline",
        "_fires_at",
        "_idle",
        "_loop",
        "_loss",
        "_on_drained",
        "_on_lost",
        "_parser",
        "_paused",
        "_sent",
        "_sink",
        "_timed_out",
        "_timer",
        "_transport",
        "_unread",
        "_waiter",
        "_writable",
    )

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._loss = "it is not open"  # why nothing more comes; empty while something may
        self._timed_out = False
        self._idle = True
        self._on_drained: Callable[[Connection], None] | None = None
        self._sent = False  # all of the request's body is out, or in the transport's hands
        self._writable = True
        self._paused = False
        self._unread = 0
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[bool] | None = None  # True: the sink takes no more for now
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    @property
    def is_open(self) -> bool:
        """False until it is connected, and once nothing of it is left."""
        return self._transport is not None

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By names in lower case."""
        return self._parser.headers

    @property
    def at_end(self) -> bool:
        """True once all of the body has been read."""
        return self._parser.ended and not self._parser.body

    @property
    def untouched(self) -> bool:
        """True while no byte of a response has come."""
        return not self._unread

    @property
    def reusable(self) -> bool:
        """True if the response was read to its end, and another request may follow."""
        return self._parser.reusable and self.at_end and self._sent and not self._loss

    async def request(self, head: bytes, body: bytes, deadline: float) -> None:
        """Send a request; return once the head of its response has come.

        Args:
            deadline: on the loop's clock.

        Raises:
            BackendTimeout: none came before the deadline.
            ConnectionLost: the connection broke, or what came is no response.
        """
        parser = self._parser
        parser.begin()
        self._idle = False
        self._sent = False
        self._unread = 0
        if self._transport is not None and not self._loss:
            if len(body) < _LARGE_BODY:
                self._transport.write(head + body)
                self._sent = True
            else:
                await self._send_in_parts(self._transport, head, body, deadline)
        while not parser.status:
            if self._loss:
                raise self._no_response()
            await self._arrival(deadline)

    async def read(self, deadline: float) -> bytes:
        """The bytes of the body that have arrived, at least one; empty at its end.

        Args:
            deadline: on the loop's clock.

        Raises:
            BackendTimeout: nothing came before the deadline.
            ConnectionLost: the connection broke.
        """
        parser = self._parser
        pieces = parser.body
        while not pieces:
            if parser.ended:
                return b""
            if self._loss:
                raise self._broken()
            await self._arrival(deadline)
        return self._take_unread()

    async def pass_on(self, sink: Sink, deadline: float) -> None:
        """Give a sink what arrives of the body, until it takes no more or the body has ended.

        What the sink raises is raised here.

        Args:
            deadline: on the loop's clock, for the first bytes.

        Raises:
            BackendTimeout: nothing came before the deadline.
            ConnectionLost: the connection broke.
        """
        parser = self._parser
        while True:
            if parser.body:
                until = sink(self._take_unread())
                if until is None:
                    return
                deadline = until
            if parser.ended:
                return
            if self._loss:
                raise self._broken()
            self._sink = sink
            try:
                if await self._arrival(deadline):
                    return
            finally:
                self._sink = None
            deadline = self._deadline

    def drain(self, seconds: float, on_drained: Callable[[Connection], None]) -> None:
        """Read over the rest of the response, for so long; then the connection is closed.

        Args:
            on_drained: called once the response has ended. Another request may follow it then.
        """
        self._discard_unread()
        if self._parser.ended:
            on_drained(self)
            return
        self._on_drained = on_drained
        self._await_until(self._loop.time() + seconds)

    def rest(self, seconds: float) -> None:
        """Keep the connection open for another request, for so long."""
        self._idle = True
        self._await_until(self._loop.time() + seconds)

    def abort(self, reason: str = "it was closed here") -> None:
        """Close the connection at once, whatever is under way: what waits for it fails."""
        self._loss = self._loss or reason
        self._cancel_timer()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # Called by the event loop -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._loss = ""

    def data_received(self, data: bytes) -> None:
        if self._idle or self._loss:
            self._give_up("it spoke unasked")
            return
        try:
            self._parser.feed(data)
        except MalformedResponse as error:
            self._unread += len(data)
            self.abort(f"malformed response: {error}")
            return
        sink, waiter = self._sink, self._waiter
        if sink is not None and waiter is not None and self._parser.body and not waiter.done():
            self._give(sink, waiter)
            return
        self._unread += len(data)
        if self._on_drained is not None:
            self._read_over(self._on_drained)
            return
        if self._unread > _MAX_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:  # returning None has the transport closed
        self._parser.finish()
        self._give_up("the server closed it")

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up("the server closed it" if error is None else type(error).__name__)
        self._transport = None
        self._parser.close()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake()

    # ------------------------------------------------------------------------------------------

    def _give(self, sink: Sink, waiter: asyncio.Future[bool]) -> None:
        """Give a sink what has come, and wake whoever waits for the sink if it isn't to go on."""
        try:
            deadline = sink(self._take_unread())
        except Exception as failure:
            if not waiter.done():
                waiter.set_exception(failure)
            return
        if waiter.done():
            return
        if deadline is None or self._parser.ended:
            waiter.set_result(deadline is None)
        elif deadline < self._fires_at:
            self._await_until(deadline)
        else:
            self._deadline = deadline

    def _take_unread(self) -> bytes:
        pieces = self._parser.body
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._paused or self._unread:
            self._discard_unread()
        else:
            pieces.clear()
        return data

    def _discard_unread(self) -> None:
        self._parser.body.clear()
        self._unread = 0
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._loss:
                self._transport.resume_reading()

    def _read_over(self, on_drained: Callable[[Connection], None]) -> None:
        """Discard what has come of a response that is drained."""
        self._parser.body.clear()
        if self._parser.ended:
            self._on_drained = None
            on_drained(self)
        elif self._unread > _MAX_UNREAD:
            self.abort("it went on and on")

    def _give_up(self, reason: str) -> None:
        """Expect nothing more of the server."""
        idle = self._idle
        self._loss = self._loss or reason
        self._cancel_timer()
        self._wake()
        if idle and self._transport is not None:
            self._transport.abort()
            self._on_lost(self)

    async def _send_in_parts(
        self, transport: asyncio.Transport, head: bytes, body: bytes, deadline: float
    ) -> None:
        """Send a large request, unless a response comes before it is out: then the rest stays."""
        transport.write(head)
        for start in range(0, len(body), _PART):
            transport.write(body[start : start + _PART])
            await asyncio.sleep(0)
            while not self._writable and not self._loss and not self._parser.status:
                await self._arrival(deadline)
            if self._loss or self._parser.status:
                return
        self._sent = True

    def _arrival(self, deadline: float) -> asyncio.Future[bool]:
        """What a reader awaits: something happens, at the latest the deadline."""
        self._waiter = waiter = self._loop.create_future()
        self._await_until(deadline)
        return waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def _await_until(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._fires_at:
            self._cancel_timer()
            self._fires_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fires_at = math.inf

    def _on_timer(self) -> None:
        self._timer = None
        self._fires_at = math.inf
        waits = self._waiter is not None and not self._waiter.done()
        if not (waits or self._idle or self._on_drained is not None):
            return  # the reader is busy; its next wait sets the timer
        if self._deadline > self._loop.time():
            self._await_until(self._deadline)
        elif self._idle:
            self._give_up("it was idle")
        else:
            self._timed_out = True
            self.abort("silence")

    def _no_response(self) -> BackendError:
        if self._timed_out:
            return BackendTimeout(
                "The model's backend did not answer in time. Try again.", reason="no first token"
            )
        return ConnectionLost(
            "The model's backend closed the connection unanswered. Try again.", reason=self._loss
        )

    def _broken(self) -> BackendError:
        if self._timed_out:
            return BackendTimeout(
                "The model's backend fell silent. Try again.", reason="no token in time"
            )
        return ConnectionLost(
            "The connection to the model's backend broke. Try again.", reason=self._loss
        )
