"""A worker's shares of the backends' slots: applied to its pools, and reported on.

Nothing is reported while there is room for all: then requests cost nothing more than in one
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.scheduling.routing import destinations
from reverie.workers.shares import Report, Room, Share


class _Waiting(NamedTuple):
    """Requests that wait for room on the same backends."""

    backends: Sequence[BackendState]
    length: int
    first: SlotRequest


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
        self._report_on(share.backend, state, self._waiting())

    def report_all(self) -> None:
        """Report on each backend, as to a parent that knows nothing yet."""
        waiting = self._waiting()
        for backend, state in enumerate(self._pool.states):
            self._report_on(backend, state, waiting)

    def _changed(self) -> None:
        if not self._reporting and (self._pool.waiting or any(self._contended)):
            self._reporting = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        """Once a turn of the event loop, whatever happened within it."""
        self._reporting = False
        self.report_all()

    def _waiting(self) -> list[_Waiting]:
        """Who waits, and for which backends: none that is left alone, whose room nobody takes."""
        return [
            _Waiting(destinations(self._pool.states, route), length, waiter.request)
            for route, length, waiter in self._pool.routes()
        ]

    def _report_on(self, backend: int, state: BackendState, all_waiting: list[_Waiting]) -> None:
        found = [one for one in all_waiting if state in one.backends]
        waiting = min(sum(one.length for one in found), state.backend.slots)
        first = found[0].first if found else None
        need = (0, 0) if first is None else state.need(first.tokens, alone=first.alone)
        report = Report(
            self.number, backend, self._numbers[backend], Room(*state.used), waiting, Room(*need)
        )
        if report != self._sent[backend]:
            self._sent[backend] = report
            self._send(report)
