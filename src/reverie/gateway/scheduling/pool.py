"""One model's backends, and the queue of requests that wait for a slot on one of them.

Rule 1: every change of scheduling state happens here, in synchronous code; ``acquire`` only waits
for what that code decides.

Rule 2: a slot has one owner at any moment: the pool, or one ``Lease``. A waiter that is cancelled
in the same turn of the event loop in which it was granted a slot gives it back at once.

Rule 3: keys share slots and room in the queue by weight, not by arrival. ``queue`` decides whose
turn it is, and nobody overtakes that request to a backend that it waits for. ``routing`` decides
which backend it gets.

Rule 4: a request waits only if waiting may help. While every backend that it could go to is known
to fail, and none is due for a trial or may come, it is refused at once, and told when to return. If
its client has a part of an answer, it waits for ``RESUME_GRACE`` seconds even so: a server may be
restarting. While all that it could go to drain, it is refused at once in any case.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence, Set

from reverie.backends.base import Backend
from reverie.errors import ModelLoading, Overloaded
from reverie.gateway.scheduling import routing
from reverie.gateway.scheduling.backend_state import BackendState, Ticket
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.members import Members
from reverie.gateway.scheduling.queue import Queue, Waiter
from reverie.gateway.scheduling.refusals import all_fail, displaced, drained, in_words, unservable

RESUME_GRACE = 5.0
"""Seconds for which an answer that was cut waits for backends that are all known to fail."""
_ALARM_SLACK = 0.001
"""Seconds by which the alarm is late, so that the moment it was set for has surely passed."""


class _Waiter(Waiter):
    """A request that waits for a lease, or for the error that ends its wait."""

    __slots__ = ("grace_ends", "granted", "position")

    def __init__(self, slot_request: SlotRequest, grace_ends: float) -> None:
        super().__init__(slot_request)
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.grace_ends = grace_ends  # on the pool's clock
        self.position = 0


class Pool(Members):
    """The backends that serve one model, and who waits for them.

    Args:
        queue_size: requests that may wait at once.
        queue_timeout: seconds that one may wait.
        examples: as in ``Members``.
    """

    def __init__(
        self,
        model: str,
        backends: Sequence[Backend],
        *,
        queue_size: int,
        queue_timeout: float,
        clock: Callable[[], float] = time.monotonic,
        examples: Sequence[Backend] | None = None,
    ) -> None:
        super().__init__(model, backends, clock, examples)
        self.queue_size = queue_size
        self._queue_timeout = queue_timeout
        self._queue: Queue[_Waiter] = Queue()
        self.routes = self._queue.routes
        self._alarm: asyncio.TimerHandle | None = None
        self._changes_at = math.inf  # by time alone, while anybody waits
        self._wakes_soon = False
        self.seconds_to_ready: Callable[[], float | None] = lambda: None
        """How long it will probably be until a backend is ready, if that is known."""
        self.not_ready_reason: Callable[[], str] = lambda: "The model is still loading"
        """Why none is ready yet, as the beginning of a sentence."""
        self.on_change: Callable[[], None] = lambda: None  # a request began to run, ended, or waits

    def bound(self, *, queue_size: int, queue_timeout: float) -> None:
        """Change the bounds of the queue, for requests that come from now on."""
        self.queue_size = queue_size
        self._queue_timeout = queue_timeout

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def acquire(self, slot_request: SlotRequest) -> Lease:
        """Wait for a slot, with room for the request's tokens.

        Raises:
            Overloaded: the queue is full and this key has the most of it, this request made room
                there for another key's, its deadline has passed, or every backend drains.
            ModelLoading: no backend became ready in time, or the queue is full while none is.
            BackendError: no backend of this model can ever become ready, or all fail just now.
        """
        if not self._queue and (chosen := self.fast.choose(slot_request)) is not None:
            return self._grant(chosen, slot_request)
        if self.failure is not None:
            raise unservable(self.failure)
        if self.is_drained_for(slot_request):
            raise drained()
        if not self._queue and (chosen := self._choose(slot_request)) is not None:
            return self._grant(chosen, slot_request)
        grace_ends = self.clock() + RESUME_GRACE if slot_request.resuming else -math.inf
        waiter = _Waiter(slot_request, grace_ends)
        self._queue.push(waiter)
        try:
            self._admit(waiter)
            patient = slot_request.resuming or slot_request.follows
            async with asyncio.timeout(None if patient else self._queue_timeout):
                return await waiter.granted
        except TimeoutError:
            self._abandon(waiter)
            error = self._too_late()
            error.timed_out = True
            raise error from None
        except BaseException:
            self._abandon(waiter)
            raise

    def wake(self) -> None:
        """Grant what can be granted."""
        self._wake_is_due = self._is_changing
        if self._is_changing:
            self.fast.changed()
            return
        for state in self.states:
            state.apply_probe()
        self.fast.changed()
        if (failure := self.failure) is not None:
            for waiter in list(self._queue):
                self._end(waiter, unservable(failure))
            return
        self._set_alarm(self._serve_queue())
        self.on_change()

    def backend_changed(self, backend: Backend) -> None:
        """Look again at one backend. It calls this when anything about it may have changed.

        A probe that finds it as sound as before costs nothing, however many others there are.
        """
        state = self._by_name.get(backend.name)
        if state is None or state.backend is not backend:
            return  # it was removed, or isn't here yet
        # Whoever waits for one that isn't well may go there now, or has it probed again.
        if state.note_change() or (self._queue and not state.healthy):
            self.wake()

    def _on_trouble(self) -> None:
        super()._on_trouble()
        if self._queue and not self._wakes_soon:
            self._wakes_soon = True
            asyncio.get_running_loop().call_soon(self._wake_if_troubled)

    def _wake_if_troubled(self) -> None:
        """Once a turn of the event loop, whatever happened to backends within it."""
        self._wakes_soon = False
        if self.fast.troubled:
            self.wake()

    def _serve_queue(self) -> float:
        """Grant what can be granted, in the queue's order; end the waits that can't help.

        Nobody overtakes the one whose turn it is to a backend that it waits for: a large request
        would never find room. Gives when the next grace ends, on the pool's clock.
        """
        held_up: set[SlotRequest] = set()
        awaited: set[str] = set()
        next_end = math.inf
        while (waiter := self._queue.first(held_up)) is not None:
            if waiter.granted.done():
                self._queue.remove(waiter)  # cancelled just now
                continue
            chosen = self._choose(waiter.request, awaited)
            if chosen is not None:
                self._serve(waiter, chosen)
                continue
            route = waiter.request.route
            held_up.add(route)
            if self.is_drained_for(route):
                for one in self._queue.on_route(route):
                    self._end(one, drained())
                continue
            if (seconds := self.seconds_to_trial(route)) is not None:
                self.probe_soon(route)
                grace_ends = self._fail_hopeless(route, seconds)
                if grace_ends == math.inf and not self.elastic:
                    continue
                next_end = min(next_end, grace_ends)
            awaited |= {
                state.name
                for state in self.states
                if state.name not in route.excluded and routing.is_eligible(state, route)
            }
        return next_end

    def _fail_hopeless(self, route: SlotRequest, seconds_to_trial: float) -> float:
        """End the waits on a route whose backends all fail, except those that are in their grace.

        Gives when the next grace ends, on the pool's clock; infinity if nobody is left, or if other
        backends may come: then all of them wait on.
        """
        now, next_end = self.clock(), math.inf
        for waiter in () if self.elastic else self._queue.on_route(route):
            if waiter.grace_ends > now:
                next_end = min(next_end, waiter.grace_ends)
            else:
                self._end(waiter, all_fail(seconds_to_trial))
        return next_end

    def _admit(self, waiter: _Waiter) -> None:
        """Grant it a slot, or see that the queue has room for it.

        Raises:
            Overloaded, ModelLoading: as ``_make_room``.
        """
        if self._may_fit(waiter):
            self.wake()
        else:
            self.on_change()
        if waiter.granted.done():
            return
        if not waiter.request.had_its_turn and self._queue.newcomers > self.queue_size:
            self._make_room(waiter)
        if not waiter.granted.done():
            waiter.position = self._queue.position(waiter)

    def _may_fit(self, waiter: _Waiter) -> bool:
        """True if the queue's newest may be served, or is the first to wait."""
        # Its turn may come before that of those who are held up.
        leads = self._queue.leads(waiter) and not self.fast.is_full_for(waiter.request)
        return leads or len(self._queue) == 1 or not self._is_settled

    @property
    def _is_settled(self) -> bool:
        """True if nothing has happened to a backend since all were looked at for those who wait."""
        return not self.fast.troubled and self.clock() < self._changes_at

    def _make_room(self, newcomer: _Waiter) -> None:
        """End the newest request of the key that has the most of the queue, by its weight.

        Raises:
            Overloaded, ModelLoading: no key has more than the newcomer's own.
        """
        greediest = self._queue.greediest(than=newcomer.request.key)
        if greediest is None:
            self._queue.remove(newcomer)
            raise self._full()
        newest, count = greediest
        refusal = displaced(count, self._queue_timeout, self._seconds_to_room())
        held_up_others = self._end(newest, refusal)
        (self.wake if held_up_others else self.on_change)()

    def _end(self, waiter: _Waiter, error: Exception) -> bool:
        """End a wait with an error; True if it may have held up others."""
        held_up_others = self._queue.remove(waiter)
        if not waiter.granted.done():
            waiter.granted.set_exception(error)
        return held_up_others

    def _grant(self, state: BackendState, slot_request: SlotRequest, position: int = 0) -> Lease:
        self.fast.in_flight += 1
        self.on_change()
        return Lease(
            state,
            slot_request.tokens,
            position,
            alone=slot_request.alone,
            clock=self.clock,
            give_back=self._give_back,
            on_resize=self._resize,
        )

    def _give_back(self, state: BackendState, ticket: Ticket) -> None:
        self._count_out(state, ticket)
        self._on_room(state)

    def _resize(self, state: BackendState, ticket: Ticket, tokens: int) -> None:
        smaller = tokens < ticket.tokens
        state.resize(ticket, tokens)
        if smaller:
            self._on_room(state)
        else:
            self.on_change()

    def _on_room(self, state: BackendState) -> None:
        """Grant room that came free on one backend."""
        if self._queue and not self._pass_on(state):
            self.wake()
        else:
            self.on_change()

    def _pass_on(self, state: BackendState) -> bool:
        """Grant a backend's room to whose turn it is; False if others may have room for others.

        All others had no room for the first of those who wait. So it need not ask them, nor ask
        them for one that is as large.
        """
        smallest = 0.0
        while self._is_settled and (waiter := self._queue.first()) is not None:
            request = waiter.request
            if waiter.granted.done():
                self._queue.remove(waiter)  # cancelled just now
            elif request.tokens >= smallest and self.fast.takes_next(state, request):
                self._serve(waiter, state)
                smallest = math.inf if request.alone else request.tokens
            else:
                return self.fast.is_full_for(request)
        return not self._queue

    def _serve(self, waiter: _Waiter, state: BackendState) -> None:
        self._queue.serve(waiter)
        waiter.granted.set_result(self._grant(state, waiter.request, waiter.position))

    def _abandon(self, waiter: _Waiter) -> None:
        """Undo a wait that ended early, including a grant that nobody took."""
        if waiter in self._queue:
            held_up_others = self._queue.remove(waiter)
            (self.wake if held_up_others else self.on_change)()
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()

    def _choose(
        self, slot_request: SlotRequest, awaited: Set[str] = frozenset()
    ) -> BackendState | None:
        for state in self.states:
            if state.silent:
                state.backend.probe_soon()
        return routing.choose(self.states, slot_request, self.clock(), awaited)

    def _set_alarm(self, next_end: float) -> None:
        """While anybody waits, look again when a grace or some backend's wait ends."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._queue:
            return
        self._changes_at = min([next_end, *(state.changes_at for state in self.states)])
        if self._changes_at < math.inf:
            loop = asyncio.get_running_loop()
            seconds = self._changes_at - self.clock() + _ALARM_SLACK
            self._alarm = loop.call_later(seconds, self.wake)

    def _full(self) -> Overloaded:
        waiting = f"{in_words(self.waiting)} waiting, each for up to {self._queue_timeout:g} s"
        return self._refusal(
            f"{self.not_ready_reason()}, and the queue is full: {waiting}.",
            f"No slot is free, and the queue is full: {waiting}.",
        )

    def _too_late(self) -> Overloaded:
        seconds, waiting = f"{self._queue_timeout:g} s", in_words(self.waiting)
        return self._refusal(
            f"{self.not_ready_reason()} after {seconds}, with {waiting} waiting.",
            f"No slot became free within {seconds}, with {waiting} still waiting.",
        )

    def _refusal(self, while_loading: str, otherwise: str) -> Overloaded:
        seconds = self._seconds_to_room()
        if not self.ready:
            return ModelLoading(
                f"{while_loading} Try again shortly.",
                retry_after=self.seconds_to_ready() or seconds,
            )
        return Overloaded(f"{otherwise} Try again shortly.", retry_after=seconds)

    def _seconds_to_room(self) -> float:
        """Seconds after which another try will probably find room: a guess, kept small."""
        return min(30.0, 1.0 + self.waiting / max(1, sum(b.slots for b in self.backends)))
