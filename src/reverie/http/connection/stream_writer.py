"""Writes a stream: opens it with the first bytes, and bridges silence with SSE comments.

Rule: a piece in the midst of a stream, for a client that reads, is written at once. No task, no
coroutine and no timer for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from reverie.errors import ClientGone
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.exchange import Headers, Send
from reverie.pending import Pending

PING = b": ping\n\n"


class StreamWriter:
    """One answer.

    The HTTP status is sent with the first bytes, or with a comment after ``commit_delay`` seconds.
    From then on a comment goes out after every ``ping_interval`` seconds of silence. A write that
    the client doesn't take within ``write_timeout`` seconds ends the request. One timer serves all
    three, so that a chunk costs no timer of its own.
    """

    def __init__(
        self,
        send: Send,
        headers: Headers,
        *,
        commit_delay: float,
        ping_interval: float,
        write_timeout: float,
        ping: bytes = PING,
        write_chunk: Callable[[bytes], bool] | None = None,
    ) -> None:
        """
        Args:
            write_chunk: writes bytes in the midst of the answer at once; it returns False, and has
                written nothing, if the client is to be waited for, or more is to be done.
        """
        self._write_chunk = write_chunk
        self._ping = ping
        self.opened = False
        self._send = send
        self._headers = headers
        self._commit_delay = commit_delay
        self._ping_interval = ping_interval
        self._write_timeout = write_timeout
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._writing_since: float | None = None
        self._commit_at = self._last_write + commit_delay
        self._pinging: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, cancel_scope: CancelScope) -> None:
        """Start the timer. A client that stops reading ends ``cancel_scope``."""
        delay = min(self._commit_delay, self._write_timeout)
        self._timer = self._loop.call_later(delay, self._tick, cancel_scope)

    def write(self, data: bytes, last: bool = False) -> Pending:
        """Send bytes, preceded by the status and headers if these weren't sent yet.

        What isn't on its way at once is left pending.
        """
        at_once = data and self.opened and not last and self._writing_since is None
        if at_once and self._write_chunk is not None and self._write_chunk(data):
            self._last_write = self._loop.time()
            return None
        if self._pinging is not None and not self._pinging.done():
            return partial(self._write_after, self._pinging, data, last)
        return partial(self._write, data, last)

    async def _write_after(self, ping: asyncio.Task[None], data: bytes, last: bool) -> None:
        await asyncio.wait({ping})
        await self._write(data, last)

    async def _write(self, data: bytes, last: bool) -> None:
        self._last_write = self._writing_since = self._loop.time()
        try:
            if not self.opened:
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": self._headers}
                )
                self.opened = True
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        finally:
            self._writing_since = None

    def _tick(self, cancel_scope: CancelScope) -> None:
        now = self._loop.time()
        ping_at = self._last_write + self._ping_interval if self.opened else self._commit_at
        wait = ping_at - now
        if self._writing_since is not None:
            wait = self._writing_since + self._write_timeout - now
            if wait <= 0:
                cancel_scope.end(ClientGone("The client stopped reading."))
                return
        elif wait <= 0:  # and nothing else is written until it is
            self._pinging = self._loop.create_task(self._write(self._ping, False))
            wait = self._ping_interval
        self._timer = self._loop.call_later(
            min(wait, self._write_timeout), self._tick, cancel_scope
        )

    async def stop(self) -> None:
        """Stop the timer, and a comment that is being written."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)
