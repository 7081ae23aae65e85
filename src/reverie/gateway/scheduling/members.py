"""A pool's backends, which may come and go, and what is true of them together.

Rule 1: a backend that was removed gets no request any more. What runs there ends as it would, and
then whoever removed it is told. Another may have its name by then.

Rule 2: where others may come (``elastic``), none is the last: requests wait while there is none,
as for an engine that starts, and while all fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from reverie.backends.base import Backend
from reverie.gateway.scheduling import routing
from reverie.gateway.scheduling.backend_state import BackendState, Ticket
from reverie.gateway.scheduling.fast_path import FastPath
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.log import fields

logger = logging.getLogger("reverie.backends")


class Members:
    """The backends that serve one model.

    Args:
        examples: backends like those that may come, which are asked what such a backend can do and
            never get a request. None: none will come, and none will go.
    """

    def __init__(
        self,
        model: str,
        backends: Sequence[Backend],
        clock: Callable[[], float],
        examples: Sequence[Backend] | None = None,
    ) -> None:
        self.model = model
        self.clock = clock
        self.elastic = examples is not None
        """True if backends may come and go."""
        self.backends: list[Backend] = []
        self.states: list[BackendState] = []
        self.examples: Sequence[Backend] = self.backends if examples is None else examples
        """What the backends are like, also while there are none."""
        self.fast = FastPath(self.states, self.examples, clock)
        self._by_name: dict[str, BackendState] = {}
        self._removed: list[BackendState] = []  # those on which requests still run
        self._is_changing = self._wake_is_due = False
        for backend in backends:
            self._append(BackendState(model, backend, clock))

    def wake(self) -> None:
        """Grant what can be granted: what is true of the backends has changed."""

    def _on_trouble(self) -> None:
        """Note that something happened to a backend's health."""
        self.fast.invalidate()

    # Coming and going ------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Generator[None, None, None]:
        """Wake once for all that changes within the ``with`` block, at its end: that takes time for
        each backend."""
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False
            if self._wake_is_due:
                self.wake()

    def add(self, backend: Backend, machine: str | None = None) -> BackendState:
        """Let requests go to one more backend. Its name is that of no other."""
        assert self.elastic
        assert backend.name not in self._by_name
        state = BackendState(self.model, backend, self.clock)
        state.replaceable, state.machine = True, machine
        state.note_change()
        self._append(state)
        self.fast.members_changed()
        self.wake()
        return state

    def remove(self, name: str, on_unused: Callable[[], None]) -> None:
        """Let no new request go to a backend.

        Args:
            on_unused: called once no request runs there: at once, if none does.
        """
        state = self._by_name.pop(name)
        self.states.remove(state)
        self.backends.remove(state.backend)
        self.fast.in_flight -= state.in_flight
        self.fast.members_changed()
        state.leaving = True  # or what comes free there would be handed to those who wait
        state.on_trouble = lambda: None
        if state.in_flight:
            state.on_unused = on_unused
            self._removed.append(state)
        else:
            on_unused()
        self.wake()

    def set_leaving(self, name: str, leaving: bool) -> None:
        """Keep new requests from a backend that is about to go, or let them go there again."""
        state = self._by_name[name]
        if state.leaving != leaving:
            state.leaving = leaving
            self.wake()

    def set_draining(self, name: str, draining: bool) -> BackendState | None:
        """Keep new requests from a backend, or let them go there again; None: there is none."""
        state = self._by_name.get(name)
        if state is not None and state.draining != draining:
            state.draining = draining
            message = "backend drains" if draining else "backend is back in service"
            logger.info(message, extra=fields(model=self.model, backend=name))
            self.wake()
        return state

    def _append(self, state: BackendState) -> None:
        state.on_trouble = self._on_trouble
        self._by_name[state.name] = state
        self.states.append(state)
        self.backends.append(state.backend)

    def _count_out(self, state: BackendState, ticket: Ticket) -> None:
        """Note that a request has left a backend."""
        state.give_back(ticket)
        if state.on_unused is None:
            self.fast.in_flight -= 1
        elif not state.in_flight:
            self._removed.remove(state)
            state.on_unused()

    # What is true of them --------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return self.fast.in_flight + sum(state.in_flight for state in self._removed)

    def in_flight_on(self, backend: Backend) -> int:
        return self._by_name[backend.name].in_flight

    @property
    def has_choice(self) -> bool:
        """True if it matters to which backend a request goes."""
        return self.elastic or len(self.backends) > 1

    @property
    def in_service(self) -> list[BackendState]:
        """The backends that neither drain nor leave."""
        return [state for state in self.states if state.in_service]

    @property
    def ready(self) -> bool:
        """True if a backend takes requests. One that may be replaced doesn't while it is down."""
        return any(
            state.backend.ready and not (state.replaceable and state.down)
            for state in self.in_service
        )

    @property
    def drained(self) -> bool:
        """True if the operator keeps requests from every backend that doesn't leave anyway."""
        staying = [state for state in self.states if not state.leaving]
        return bool(staying) and all(state.draining for state in staying)

    @property
    def failure(self) -> str | None:
        """Why this model can't be served and never will be without help; None otherwise."""
        if self.elastic:
            return None
        failure = None
        for backend in self.backends:
            if backend.failure is None:
                return None
            failure = failure or backend.failure
        return failure

    def within_context(self, tokens: int) -> int:
        """So many tokens, or what fits the largest context of the backends, if that is less."""
        within = self.fast.within_context(tokens)
        if within is not None:
            return within
        contexts = [backend.context for backend in self.backends or self.examples]
        return min(tokens, max((c or tokens for c in contexts), default=tokens))

    def can_take(self, slot_request: SlotRequest) -> bool:
        """True if a retry makes sense: a backend that it may go to can take it, or may soon."""
        if self.failure is not None:
            return False
        in_service = self.in_service
        left = any(state.name not in slot_request.excluded for state in in_service)
        if self.elastic:
            return left or not in_service
        return left and (slot_request.resuming or self.seconds_to_trial(slot_request) is None)

    def may_recover(self, backend: Backend) -> bool:
        """True if a backend that failed restarts by itself, or has answered a probe since."""
        state = self._by_name.get(backend.name)
        if state is None:
            return False
        return backend.recovers or state.replaceable or state.recovered

    def is_drained_for(self, slot_request: SlotRequest) -> bool:
        """True if a request could go nowhere but to backends that drain."""
        if not any(state.draining for state in self.states):
            return False
        allowed = [s for s in self.states if s.name not in slot_request.excluded and not s.leaving]
        usable = [state for state in allowed if state.backend.failure is None]
        return bool(usable) and all(state.draining for state in usable)

    def seconds_to_trial(self, slot_request: SlotRequest) -> float | None:
        """Seconds until a backend may be tried again, if all that aren't excluded fail just now.

        None if there is one to send to, or to wait for: one that starts, or is on trial.
        """
        states = self.in_service
        if len(states) == 1 and not (slot_request.resuming or self.elastic):
            return None
        waits = []
        for state in states:
            if state.name in slot_request.excluded or state.backend.failure is not None:
                continue
            if routing.is_eligible(state, slot_request) or state.on_trial:
                return None
            if not slot_request.resuming and routing.answers_probes(state):
                return None
            waits.append(state.retry_in)
        return min(waits, default=None)

    def probe_soon(self, slot_request: SlotRequest) -> None:
        """Ask the backends that a request may go to at once whether they are back."""
        for state in self.states:
            if state.name not in slot_request.excluded:
                state.backend.probe_soon()
