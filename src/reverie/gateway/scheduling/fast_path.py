"""The quick choice of a backend while all of a pool's are healthy, which is nearly always.

What is true of them until further notice is remembered, so that a request need not ask each.

Rule: it chooses what ``routing.choose`` would, or leaves the choice to it. What it remembers is
forgotten when a backend changes, when its health does, and when one may have become silent.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from reverie.backends.base import Backend
from reverie.gateway.scheduling.backend_state import SILENCE, BackendState
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.rendezvous import Rendezvous
from reverie.gateway.scheduling.routing import is_within_bound

_MAX_KNOWN = 16_384
"""Conversations whose preferred backend is remembered."""


class FastPath:
    """What is true of a pool's backends while nothing happens to them."""

    def __init__(
        self,
        states: Sequence[BackendState],
        examples: Sequence[Backend],
        clock: Callable[[], float],
    ) -> None:
        self._states = states
        self._examples = examples
        self._clock = clock
        self._until = -math.inf
        self._capacities: list[float] = []
        self._capacity = 0.0
        self._rendezvous = Rendezvous(())
        self._preferred: OrderedDict[bytes, BackendState] = OrderedDict()
        self._context: int | None = None
        self._unlike: list[Backend] | None = None
        self.in_flight = 0
        """On all of them. The pool counts."""

    def invalidate(self) -> None:
        """Forget that all are healthy: something happened to one of them."""
        self._until = -math.inf

    def changed(self) -> None:
        """Forget all that depends on the backends, not on their health alone."""
        self._until = -math.inf
        self._unlike = None

    def members_changed(self) -> None:
        """Forget which backend each conversation prefers, too: one has come or gone."""
        self.changed()
        self._capacities = []
        self._preferred.clear()

    @property
    def unlike(self) -> Sequence[Backend]:
        """One backend for each group of those that honour the same requests."""
        if self._unlike is None:
            first: dict[Hashable, Backend] = {}
            for backend in self._examples:
                first.setdefault(backend.checked_by, backend)
            self._unlike = list(first.values())
        return self._unlike

    def within_context(self, tokens: int) -> int | None:
        """So many tokens, or what fits the largest context; None: ask the backends."""
        if self._clock() >= self._until:
            return None
        return tokens if self._context is None else min(tokens, self._context)

    def choose(self, slot_request: SlotRequest) -> BackendState | None:
        """The backend for a request; None: look at all of them."""
        plain = not (slot_request.excluded or slot_request.failed_on or slot_request.resuming)
        if not plain or (self._clock() >= self._until and not self._all_healthy()):
            return None
        if len(self._states) == 1:
            state = self._states[0]
        elif slot_request.affinity is not None:
            state = self._preferred_by(slot_request.affinity)
            if not is_within_bound(state, self.in_flight, self._capacity):
                return None
        else:
            return None
        has_room = state.has_room(slot_request.tokens, alone=slot_request.alone)
        return state if has_room and state.backend.ready else None

    def _preferred_by(self, affinity: bytes) -> BackendState:
        state = self._preferred.get(affinity)
        if state is None:
            state = self._preferred[affinity] = self._rendezvous.home_of(affinity)
            if len(self._preferred) > _MAX_KNOWN:
                self._preferred.popitem(last=False)
        return state

    def _all_healthy(self) -> bool:
        """Look whether all are healthy, and until when they surely are."""
        now = self._clock()
        if not self._states or not all(state.healthy for state in self._states):
            return False
        busy = [state.latest_output for state in self._states if state.in_flight]
        self._until = min(busy, default=now) + SILENCE
        contexts = [state.backend.context for state in self._states]
        known = [context for context in contexts if context]
        self._context = max(known) if len(known) == len(contexts) else None
        capacities = [state.capacity for state in self._states]
        if capacities != self._capacities:
            self._capacities, self._capacity = capacities, sum(capacities)
            self._rendezvous = Rendezvous(self._states)
            self._preferred.clear()
        return True
