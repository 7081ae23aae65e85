"""One model's backends, and the queue of requests that wait for a slot on one of them.

Rule 1: every change of scheduling state happens here, in synchronous code; ``acquire`` only waits
for what that code decides.

Rule 2: a slot has one owner at any moment: the pool, or one ``Lease``. A waiter that is cancelled
in the same turn of the event loop in which it was granted a slot gives it back at once.

Rule 3: keys share slots and room in the queue by weight, not by arrival. Whose turn it is, is
decided in ``lines``; nobody overtakes it to a backend that it waits for. Which backend it is, is
decided in ``router``.

Rule 4: a request waits only for what may come. While every backend that it could go to is known to
fail, and none is due for a trial, it is refused at once, and told when to return. One whose client
has a part of an answer waits for ``RESUME_GRACE`` seconds even then: a server may be restarting.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence, Set

from reverie.backends.base import Backend
from reverie.errors import BackendError, ModelLoading, Overloaded
from reverie.gateway.scheduling import routing
from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.lease import Lease as Lease
from reverie.gateway.scheduling.queue import Line, Lines, Waiter
from reverie.gateway.scheduling.slot_request import SlotRequest

RESUME_GRACE = 5.0
"""Seconds for which an answer that was cut waits for backends that are all known to fail."""
_ALARM_SLACK = 0.001
"""Seconds after which a moment that was waited for has passed for certain."""


class Pool:
    """The backends that serve one model.

    Args:
        queue_size: requests that may wait at once.
        queue_timeout: seconds that one may wait.
    """

    def __init__(
        self,
        model: str,
        backends: Sequence[Backend],
        *,
        queue_size: int,
        queue_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.backends = tuple(backends)
        self._queue_size = queue_size
        self._queue_timeout = queue_timeout
        self.clock = clock
        self.members = tuple(BackendState(model, backend, clock) for backend in backends)
        self._by_name = {member.name: member for member in self.members}
        self._lines = Lines()
        self._arrivals = 0
        self._alarm: asyncio.TimerHandle | None = None
        self.seconds_to_ready: Callable[[], float | None] = lambda: None
        """How long it is likely to be until a backend is ready, if that is known."""
        self.not_ready_reason: Callable[[], str] = lambda: "The model is still loading"
        """Why none is ready yet, as the beginning of a sentence."""

    def bound(self, *, queue_size: int, queue_timeout: float) -> None:
        """Change the bounds of the queue, for those who come from now on."""
        self._queue_size = queue_size
        self._queue_timeout = queue_timeout

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.members)

    def in_flight_on(self, backend: Backend) -> int:
        return self._by_name[backend.name].in_flight

    @property
    def waiting(self) -> int:
        return len(self._lines)

    @property
    def ready(self) -> bool:
        return any(backend.ready for backend in self.backends)

    @property
    def failure(self) -> str | None:
        """Why this model can't be served and never will be without help; None otherwise."""
        failures = [backend.failure for backend in self.backends]
        return next(filter(None, failures), None) if all(failures) else None

    async def acquire(self, slot_request: SlotRequest) -> Lease:
        """Wait for a slot, with room for what is wished for.

        Raises:
            Overloaded: the queue is full and this key holds the most of it, this request made
                room there for another key's, or its deadline has passed.
            ModelLoading: no backend became ready in time, or the queue is full while none is.
            BackendError: no backend of this model can ever become ready, or all fail just now.
        """
        if self.failure is not None:
            raise _unservable(self.failure)
        if not self._lines and (chosen := self._choose(slot_request)) is not None:
            return self._grant(chosen, slot_request.tokens)
        self._arrivals += 1
        hopes_until = self.clock() + RESUME_GRACE if slot_request.resuming else -math.inf
        waiter = Waiter(slot_request, self._arrivals, hopes_until)
        self._lines.push(waiter)
        try:
            self._admit(waiter)
            async with asyncio.timeout(None if slot_request.resuming else self._queue_timeout):
                return await waiter.granted
        except TimeoutError:
            self._forget(waiter)
            raise self._too_late() from None
        except BaseException:
            self._forget(waiter)
            raise

    def within_context(self, tokens: int) -> int:
        """What of so many tokens a request can really come to, on the backend that allows most."""
        contexts = [backend.context for backend in self.backends]
        return min(tokens, max((c or tokens for c in contexts), default=tokens))

    def can_take(self, slot_request: SlotRequest) -> bool:
        """Whether to try again makes sense: a backend may take a request that was let down."""
        left = any(backend.name not in slot_request.excluded for backend in self.backends)
        able = left and self.failure is None
        return able and (slot_request.resuming or self._shut_for(slot_request) is None)

    def may_recover(self, backend: Backend) -> bool:
        """Whether a backend that failed restarts by itself, or answered a probe since."""
        return backend.recovers or self._by_name[backend.name].recovered

    def wake(self) -> None:
        """Grant what can be granted. A backend calls this when its readiness changes."""
        if (failure := self.failure) is not None:
            for waiter in list(self._lines):
                self._end(waiter, _unservable(failure))
            return
        for member in self.members:
            member.apply_probe()
        awaited: Set[str] = frozenset()
        for line in self._lines.in_order():
            self._serve(line, awaited)
            if line.queue and (wait := self._shut_for(line.like)) is not None:
                self._fail_hopeless(line, wait)
            if not self._lines.tidy(line):
                awaited |= {m.name for m in self.members if self._is_awaited(m, line.like)}
        self._set_alarm()

    @staticmethod
    def _is_awaited(member: BackendState, slot_request: SlotRequest) -> bool:
        return member.name not in slot_request.excluded and routing.is_eligible(
            member, slot_request
        )

    def _serve(self, line: Line, awaited: Set[str]) -> None:
        """Grant what can be granted to one line, in its order, on backends not ``awaited``.

        Nobody overtakes the one whose turn it is: a large request would never find room.
        """
        while (waiter := line.queue.peek()) is not None:
            if waiter.granted.done():
                line.queue.remove(waiter)  # cancelled just now
                continue
            chosen = self._choose(waiter.slot_request, awaited)
            if chosen is None:
                return
            line.queue.pop()
            waiter.granted.set_result(
                self._grant(chosen, waiter.slot_request.tokens, waiter.position)
            )

    def _fail_hopeless(self, line: Line, wait: float) -> None:
        """End those who can't hope. Their backends are asked at once whether they are back."""
        for member in self.members:
            if member.name not in line.like.excluded:
                member.backend.probe_soon()
        now = self.clock()
        for waiter in list(line.queue):
            if waiter.hopes_until <= now:
                self._end(waiter, _failing(wait))

    def _admit(self, waiter: Waiter) -> None:
        """Grant it a slot, or see that the queue has room for it.

        Raises:
            Overloaded, ModelLoading: as ``_make_room``.
        """
        self.wake()  # its turn may come before that of those who are held up, and it may fit
        if waiter.granted.done():
            return
        if not waiter.slot_request.is_retry and self._lines.newcomers > self._queue_size:
            self._make_room(waiter)
        if not waiter.granted.done():
            waiter.position = self._lines.position(waiter)

    def _make_room(self, newcomer: Waiter) -> None:
        """End the newest request of the key that holds the most of the queue, by its weight.

        Raises:
            Overloaded, ModelLoading: nobody holds more than the newcomer's own key.
        """
        greedy = self._lines.newest_of_greediest(than=newcomer.slot_request.key)
        if greedy is None:
            self._lines.remove(newcomer)
            raise self._full()
        count = self._lines.newcomers_of(greedy.slot_request.key)
        self._end(
            greedy,
            Overloaded(
                f"Your key has {_requests(count)} waiting, each for up to "
                f"{self._queue_timeout:g} s. The queue is full, and the newest of them made room "
                "for another key's. Send fewer at once, or try again shortly.",
                retry_after=self._patience(),
            ),
        )
        self.wake()  # it may have held up others

    def _end(self, waiter: Waiter, error: Exception) -> None:
        self._lines.remove(waiter)
        if not waiter.granted.done():
            waiter.granted.set_exception(error)

    def _grant(self, member: BackendState, tokens: int, position: int = 0) -> Lease:
        member.take(tokens)
        return Lease(member, tokens, position, clock=self.clock, give_back=self._release)

    def _release(self, member: BackendState, tokens: int) -> None:
        member.give_back(tokens)
        self.wake()

    def _forget(self, waiter: Waiter) -> None:
        """Undo a wait that ended early, including a grant that nobody took."""
        if waiter in self._lines:
            self._lines.remove(waiter)
            self.wake()  # it may have held up others
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()

    def _choose(
        self, slot_request: SlotRequest, awaited: Set[str] = frozenset()
    ) -> BackendState | None:
        for member in self.members:
            if member.silent:
                member.backend.probe_soon()
        return routing.choose(self.members, slot_request, self.clock(), awaited)

    def _set_alarm(self) -> None:
        """While anybody waits, look again when a backend may be trusted again, or hope ends."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._lines:
            return
        now = self.clock()
        moments = [member.changes_at for member in self.members]
        moments += [one.hopes_until for one in self._lines.resuming() if one.hopes_until > now]
        if (moment := min(moments)) < math.inf:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(moment - now + _ALARM_SLACK, self.wake)

    def _shut_for(self, slot_request: SlotRequest) -> float | None:
        """Seconds until a backend may be tried again, if all that aren't excluded fail just now.

        None if there is one to send to, or to wait for: one that starts, or is on trial.
        """
        if len(self.members) == 1 and not slot_request.resuming:
            return None
        waits = []
        for member in self.members:
            if member.name in slot_request.excluded or member.backend.failure is not None:
                continue
            if routing.is_eligible(member, slot_request) or member.breaker.on_trial:
                return None
            if not slot_request.resuming and routing.is_alive(member):
                return None
            waits.append(member.breaker.retry_in)
        return min(waits, default=None)

    def _full(self) -> Overloaded:
        waiting = f"{_requests(self.waiting)} waiting, each for up to {self._queue_timeout:g} s"
        if not self.ready:
            return ModelLoading(
                f"{self.not_ready_reason()}, and the queue is full: {waiting}. Try again shortly.",
                retry_after=self.seconds_to_ready() or self._patience(),
            )
        return Overloaded(
            f"No slot is free, and the queue is full: {waiting}. Try again shortly.",
            retry_after=self._patience(),
        )

    def _too_late(self) -> Overloaded:
        if not self.ready:
            return ModelLoading(
                f"{self.not_ready_reason()} after {self._queue_timeout:g} s, with "
                f"{_requests(self.waiting)} waiting. Try again shortly.",
                retry_after=self.seconds_to_ready() or self._patience(),
            )
        return Overloaded(
            f"No slot became free within {self._queue_timeout:g} s, with "
            f"{_requests(self.waiting)} still waiting. Try again shortly.",
            retry_after=self._patience(),
        )

    def _patience(self) -> float:
        """Seconds after which another try is likely to find room: a guess, kept small."""
        return min(30.0, 1.0 + self.waiting / max(1, sum(b.slots for b in self.backends)))


def _unservable(reason: str) -> BackendError:
    return BackendError("This model can't be served at the moment.", reason=reason)


def _failing(wait: float) -> BackendError:
    return BackendError(
        "Every backend of this model fails at the moment. Try again shortly.",
        reason="no backend is due for a trial",
        retry_after=wait,
    )


def _requests(count: int) -> str:
    return f"{count} request" if count == 1 else f"{count} requests"
