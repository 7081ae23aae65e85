"""A worker's shares of the backends' slots: applied to its pools, and reported on.

Nothing is reported while there is room for all: then requests cost nothing more than in one
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.scheduling.routing import is_eligible
from reverie.workers.shares import Report, Room, Share


class PoolShares:
    """The shares of one deployment's backends.

    Args:
        number: of the deployment.
        send: sends a report to the parent.
    """

    def __init__(self, number: int, pool: Pool, send: Callable[[Report], None]) -> None:
        self.number = number
        self._pool = pool
        self._send = send
        self._numbers = [0] * len(pool.states)
        self._sent: list[Report | None] = [None] * len(pool.states)
        self._contended = [False] * len(pool.states)
        self._reporting = False
        for state in pool.states:
            state.share = (0, 0)
        pool.on_change = self._changed

    def apply(self, share: Share) -> None:
        """Put a share in force, and confirm it."""
        state = self._pool.states[share.backend]
        state.share = (share.room.slots, share.room.tokens)
        self._numbers[share.backend] = share.number
        self._contended[share.backend] = share.contended
        self._pool.wake()
        self._report_on(share.backend, state)

    def report_all(self) -> None:
        """Report on each backend, as to a parent that knows nothing yet."""
        for backend, state in enumerate(self._pool.states):
            self._report_on(backend, state)

    def _changed(self) -> None:
        if not self._reporting and (self._pool.waiting or any(self._contended)):
            self._reporting = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        """Once a turn of the event loop, whatever happened within it."""
        self._reporting = False
        self.report_all()

    def _waiting_for(self, state: BackendState) -> tuple[int, SlotRequest | None]:
        """How many wait that may go to a backend, and the first of them."""
        if not state.backend.ready or state.draining:
            return 0, None
        only = len(self._pool.states) == 1
        found = [
            (length, waiter.request)
            for route, length, waiter in self._pool.routes()
            if state.name not in route.excluded and (only or is_eligible(state, route))
        ]
        first = min((one for _, one in found), key=lambda one: one.rank, default=None)
        return sum(length for length, _ in found), first

    def _report_on(self, backend: int, state: BackendState) -> None:
        waiting, first = self._waiting_for(state)
        waiting = min(waiting, state.backend.slots)
        need = (0, 0) if first is None else state.need(first.tokens, alone=first.alone)
        report = Report(
            self.number, backend, self._numbers[backend], Room(*state.used), waiting, Room(*need)
        )
        if report != self._sent[backend]:
            self._sent[backend] = report
            self._send(report)
