"""The quick choice of a backend, while it is known which of a pool's are sound.

What is true of them until further notice is remembered, so that a request need not ask each.

Rule 1: it chooses what ``routing.choose`` would, or leaves the choice to it. What it remembers is
forgotten when a backend changes, when its health does, and when one may have become silent.

Rule 2: of many, it looks at some for the least loaded, at others each time. The least loaded of all
has hardly less to do (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
IEEE TPDS 12(10), 2001).
"""

from __future__ import annotations

import math
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from reverie.backends.base import Backend
from reverie.gateway.scheduling.backend_state import PROBE_WAIT, SILENCE, BackendState
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.rendezvous import Rendezvous
from reverie.gateway.scheduling.routing import is_within_bound, least_loaded

_KNOWN_EACH = 16
"""Conversations whose home is remembered, for each backend: to find it takes a look at each."""
SOME = 32
"""Backends among which the least loaded is looked for."""


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
        self._sound: list[BackendState] = []
        self._aside: list[BackendState] = []
        self._slots = self._elsewhere = 0
        self._capacities: list[float] = []
        self._capacity = 0.0
        self._rendezvous = Rendezvous(())
        self._preferred: OrderedDict[bytes, BackendState] = OrderedDict()
        self._context: int | None = None
        self._unlike: list[Backend] | None = None
        self._next = random.randrange(2**16)  # gateways that share backends look at others
        self.troubled = False
        """True if something happened to one of them since ``changed``."""
        self.in_flight = 0
        """On all of them. The pool counts."""

    def invalidate(self) -> None:
        """Forget which are sound: something happened to one of them."""
        self._until = -math.inf
        self.troubled = True

    def changed(self) -> None:
        """Forget all that depends on the backends, not on their health alone."""
        self._until = -math.inf
        self.troubled = False
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
        if not _goes_anywhere(slot_request) or not self._is_sure():
            return None
        if len(self._states) == 1:
            [state] = self._states
            return state if _takes(state, slot_request) else None
        if slot_request.affinity is not None:
            state = self._preferred_by(slot_request.affinity)
            in_flight = self._in_flight + self._elsewhere
            within_bound = is_within_bound(state, in_flight, self._capacity)
            if within_bound and _takes(state, slot_request):
                return state
        return self._least_loaded_of_some(slot_request)

    def takes_next(self, state: BackendState, slot_request: SlotRequest) -> bool:
        """True if a backend, where room came free, takes a request that none had room for."""
        sure = _goes_anywhere(slot_request) and self._is_sure() and state.healthy
        return sure and _has_room(state, slot_request)

    def is_full_for(self, slot_request: SlotRequest) -> bool:
        """True if surely no backend takes a request, nor a smaller one."""
        sure = _goes_anywhere(slot_request) and self._is_sure()
        return sure and self._in_flight >= self._slots

    @property
    def _in_flight(self) -> int:
        """On those that are sound."""
        return self.in_flight - sum([state.in_flight for state in self._aside])

    def _least_loaded_of_some(self, slot_request: SlotRequest) -> BackendState | None:
        if len(self._sound) <= SOME:
            return None
        self._next = (self._next + SOME) % len(self._sound)
        some = self._sound[self._next : self._next + SOME]
        some += self._sound[: SOME - len(some)]
        return least_loaded([s for s in some if _takes(s, slot_request)], self._clock())

    def _preferred_by(self, affinity: bytes) -> BackendState:
        state = self._preferred.get(affinity)
        if state is None:
            state = self._preferred[affinity] = self._rendezvous.home_of(affinity)
            if len(self._preferred) > _KNOWN_EACH * len(self._states):
                self._preferred.popitem(last=False)
        return state

    def _is_sure(self) -> bool:
        return self._clock() < self._until or self._look()

    def _look(self) -> bool:
        """Look which are sound, and until when that surely holds; False if it can't be told.

        The others are left aside if they surely get no request that has a choice before that.
        """
        now = self._clock()
        sound, aside = [], []
        until = math.inf
        for state in self._states:
            if state.healthy:
                sound.append(state)
            elif state.is_aside:
                aside.append(state)
                until = min(until, state.changes_at)
                if state.silent:
                    state.backend.probe_soon()
                    until = min(until, now + PROBE_WAIT)
            else:
                return False
        if not sound:
            return False
        busy = [state.latest_output for state in sound if state.in_flight]
        self._until = min(until, min(busy, default=now) + SILENCE)
        contexts = [state.backend.context for state in self._states]
        known = [context for context in contexts if context]
        self._context = max(known) if len(known) == len(contexts) else None
        self._aside = aside
        last_resort = any(s.in_service and s.admits and s.backend.ready for s in aside)
        self._slots = sys.maxsize if last_resort else sum([state.limit for state in sound])
        self._elsewhere = sum([state.elsewhere for state in sound])
        capacities = [state.capacity for state in sound]
        if capacities != self._capacities or sound != self._sound:
            self._sound, self._capacities, self._capacity = sound, capacities, sum(capacities)
            self._rendezvous = Rendezvous(sound)
            self._preferred.clear()
        return True


def _goes_anywhere(slot_request: SlotRequest) -> bool:
    return not (slot_request.excluded or slot_request.failed_on or slot_request.resuming)


def _takes(state: BackendState, slot_request: SlotRequest) -> bool:
    has_free_slot = state.has_free_slot(alone=slot_request.alone)
    return has_free_slot and _has_room(state, slot_request)


def _has_room(state: BackendState, slot_request: SlotRequest) -> bool:
    has_room = state.has_room(slot_request.tokens, alone=slot_request.alone)
    return has_room and state.backend.ready
