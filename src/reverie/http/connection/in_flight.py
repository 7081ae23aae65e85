"""The requests that run now: a drain waits for them, and can end them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from reverie.errors import ClientGone, DeadlinePassed, Overloaded, ReverieError
from reverie.gateway.record import RequestRecord
from reverie.http.connection.cancel_scope import CancelScope
from reverie.http.connection.exchange import Receive, Scope
from reverie.http.connection.extensions import on_disconnect


class InFlight:
    """Every generation, and every client that waits for one, is registered here while it runs."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[CancelScope] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def refuse_when_draining(self) -> None:
        """Refuse a new request during a drain.

        Raises:
            Overloaded
        """
        if self.draining:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)

    def running(
        self, limit: float, *, joins: bool = False, record: RequestRecord | None = None
    ) -> Run:
        """Run the block for at most ``limit`` seconds, or until a shutdown ends it.

        Args:
            joins: allowed during a drain, too: the block waits for a generation that is registered
                by itself.
            record: of the request that runs, which can be cancelled by it.

        Raises:
            Overloaded: the server drains.
        """
        if not joins:
            self.refuse_when_draining()
        return Run(self, limit, record)

    def watched(
        self,
        scope: Scope,
        receive: Receive,
        limit: float,
        *,
        joins: bool = False,
        record: RequestRecord | None = None,
    ) -> Run:
        """As ``running``; the client's leaving ends the block, too."""
        run = self.running(limit, joins=joins, record=record)
        run.watch(scope, receive)
        return run

    def begun(self, run: CancelScope) -> None:
        self._running.add(run)
        self._idle.clear()

    def ended(self, run: CancelScope) -> None:
        self._running.discard(run)
        if not self._running:
            self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, error: ReverieError) -> None:
        for cancel_scope in self._running:
            cancel_scope.end(error)


class Run(CancelScope):
    """A block that is registered while it runs, has a deadline, and may end with its client."""

    def __init__(self, in_flight: InFlight, limit: float, record: RequestRecord | None) -> None:
        super().__init__()
        self._in_flight = in_flight
        self._limit = limit
        self._record = record
        self._deadline: asyncio.TimerHandle | None = None
        self._watched: tuple[Scope, Receive] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, scope: Scope, receive: Receive) -> None:
        """Have the client's leaving end the block, which is to begin."""
        self._watched = scope, receive

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._in_flight.begun(self)
        if self._record is not None:
            self._record.cancel = self.end
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limit, self._took_too_long)
        if self._watched is not None:
            scope, receive = self._watched
            if not on_disconnect(scope, self._client_left):
                self._watcher = loop.create_task(self._wait_for_disconnect(receive))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        elif self._watched is not None:
            on_disconnect(self._watched[0], None)
        if self._record is not None:
            self._record.cancel = None
        self._in_flight.ended(self)
        await super().__aexit__(kind, error, traceback)

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client_left()

    def _client_left(self) -> None:
        self.end(ClientGone("The client closed the connection."))

    def _took_too_long(self) -> None:
        self.end(
            DeadlinePassed(
                f"The answer took more than {self._limit:g} s. Ask for a shorter one.",
                reason="request_timeout",
            )
        )
