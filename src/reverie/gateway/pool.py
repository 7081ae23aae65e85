"""One model's backends, and the queue of requests that wait for a slot on one of them.

Rule 1: every change of scheduling state happens here, in synchronous code; ``acquire`` only waits
for what that code decides.

Rule 2: a slot has one owner at any moment: the pool, or one ``Lease``. A waiter that is cancelled
in the same turn of the event loop in which it was granted a slot gives it back at once.

Rule 3: keys share slots and room in the queue by weight, not by arrival. Whose turn it is, is
decided in ``fair``; nobody overtakes it to a backend that it waits for. Which backend it is, is
decided in ``router``.

Rule 4: a request that a backend let down has had its turn, and its client may have half an answer.
It goes before new ones, and there is always room for it in the queue.

Rule 5: a request waits only for what may come. While every backend that it could go to is known to
fail, and none is due for a trial, it is refused at once, and told when to return.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

from reverie.backends.base import Backend
from reverie.errors import BackendError, ModelLoading, Overloaded
from reverie.gateway import router
from reverie.gateway.fair import FairQueue
from reverie.gateway.lease import Lease as Lease
from reverie.gateway.member import Member

_ALARM_SLACK = 0.001
"""Seconds after which a moment that was waited for has passed for certain."""


class _Line(NamedTuple):
    """What those who stand in one queue have in common."""

    again: bool
    """A backend has let them down."""
    excluded: frozenset[str]
    """Names of the backends that they can't go to."""


class _Waiter:
    __slots__ = ("affinity", "granted", "key", "line", "number", "position", "tokens")

    def __init__(
        self,
        granted: asyncio.Future[Lease],
        tokens: int,
        line: _Line,
        key: str,
        number: int,
        affinity: bytes | None,
    ) -> None:
        self.granted = granted
        self.tokens = tokens
        self.line = line
        self.key = key
        self.number = number  # in the order of arrival
        self.affinity = affinity
        self.position = 0


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
        self.members = tuple(Member(model, backend, clock) for backend in backends)
        self._by_name = {member.name: member for member in self.members}
        self._queues: dict[_Line, FairQueue[_Waiter]] = {}
        """Those who wait. None of these queues is empty."""
        self._arrivals = 0
        self._alarm: asyncio.TimerHandle | None = None
        self.seconds_to_ready: Callable[[], float | None] = lambda: None
        """How long it is likely to be until a backend is ready, if that is known."""

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
        return sum(map(len, self._queues.values()))

    @property
    def ready(self) -> bool:
        return any(backend.ready for backend in self.backends)

    @property
    def failure(self) -> str | None:
        """Why this model can't be served and never will be without help; None otherwise."""
        failures = [backend.failure for backend in self.backends]
        return next(filter(None, failures), None) if all(failures) else None

    async def acquire(
        self,
        tokens: int = 0,
        excluded: Set[str] = frozenset(),
        *,
        key: str = "",
        weight: int = 1,
        affinity: bytes | None = None,
        again: bool = False,
        patient: bool = False,
    ) -> Lease:
        """Wait for a slot, with room for ``tokens``, on a backend that isn't ``excluded`` by name.

        Args:
            again: a backend has let this request down.
            patient: it waits for longer than others may, until its own deadline.

        Keys that wait share the backends' tokens by their weights, which are 1 or more. Requests of
        one ``affinity`` go to one backend, as far as ``router`` can have it so.

        Raises:
            Overloaded: the queue is full and this key holds the most of it, this request made
                room there for another key's, or its deadline has passed.
            ModelLoading: no backend became ready in time, or the queue is full while none is.
            BackendError: no backend of this model can ever become ready, or all fail just now.
        """
        if self.failure is not None:
            raise _unservable(self.failure)
        line = _Line(again, frozenset(excluded))
        if not self._queues and (chosen := self._choose(tokens, line, affinity)):
            return self._grant(chosen, tokens)
        waiter = self._enqueue(tokens, line, key, weight, affinity)
        try:
            self._admit(waiter)
            async with asyncio.timeout(None if patient else self._queue_timeout):
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

    def can_take(self, excluded: Set[str]) -> bool:
        """Whether to try again makes sense: a backend that isn't excluded may take a request that
        another one let down.
        """
        left = any(backend.name not in excluded for backend in self.backends)
        return left and self.failure is None and self._shut_for(True, excluded) is None

    def wake(self) -> None:
        """Grant what can be granted. A backend calls this when its readiness changes."""
        if (failure := self.failure) is not None:
            for waiter in [waiter for queue in self._queues.values() for waiter in queue]:
                self._end(waiter, _unservable(failure))
            return
        for member in self.members:
            member.heed_probe()
        awaited: Set[str] = frozenset()
        for line in self._order():
            self._serve(line, awaited)
            if line in self._queues and (wait := self._shut_for(*line)) is not None:
                for waiter in list(self._queues[line]):
                    self._end(waiter, _failing(wait))
            if line in self._queues:
                awaited |= self._by_name.keys() - line.excluded
        self._set_alarm()

    def _order(self) -> list[_Line]:
        """The queues in the order in which they are served: the narrowest choice first."""
        return sorted(self._queues, key=_rank, reverse=True)

    def _serve(self, line: _Line, awaited: Set[str]) -> None:
        """Grant what can be granted to one queue, in its order, on backends not ``awaited``.

        Nobody overtakes the one whose turn it is: a large request would never find room.
        """
        queue = self._queues[line]
        while (waiter := queue.peek()) is not None:
            if waiter.granted.done():
                queue.remove(waiter)  # cancelled just now
                continue
            chosen = self._choose(waiter.tokens, line, waiter.affinity, awaited)
            if chosen is None:
                return
            queue.pop()
            waiter.granted.set_result(self._grant(chosen, waiter.tokens, waiter.position))
        del self._queues[line]

    def _enqueue(
        self,
        tokens: int,
        line: _Line,
        key: str,
        weight: int,
        affinity: bytes | None,
    ) -> _Waiter:
        self._arrivals += 1
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(granted, tokens, line, key, self._arrivals, affinity)
        queue = self._queues.get(line, FairQueue())
        queue.push(waiter, key, weight, cost=max(1, tokens))
        self._queues[line] = queue
        return waiter

    def _admit(self, waiter: _Waiter) -> None:
        """Grant it a slot, or see that the queue has room for it.

        Raises:
            Overloaded, ModelLoading: as ``_make_room``.
        """
        self.wake()  # its turn may come before that of those who are held up, and it may fit
        crowded = sum(map(len, self._newcomers())) > self._queue_size
        if crowded and not waiter.line.again and not waiter.granted.done():
            self._make_room(waiter)
        if not waiter.granted.done():
            before = (line for line in self._queues if _rank(line) > _rank(waiter.line))
            ahead = sum(len(self._queues[line]) for line in before)
            waiter.position = ahead + self._queues[waiter.line].position(waiter)

    def _make_room(self, newcomer: _Waiter) -> None:
        """End the newest request of the key that holds the most of the queue, by its weight.

        Raises:
            Overloaded, ModelLoading: nobody holds more than the newcomer's own key.
        """
        loads: dict[str, float] = {}
        for queue in self._newcomers():
            for key, load in queue.loads():
                loads[key] = loads.get(key, 0) + load
        greediest = max(loads, key=loads.__getitem__)
        if loads[greediest] <= loads[newcomer.key]:
            self._remove(newcomer)
            raise self._full()
        newest = (queue.newest_of(greediest) for queue in self._newcomers())
        self._end(
            max(filter(None, newest), key=lambda waiter: waiter.number),
            Overloaded(
                f"Your key has {_requests(self._waiting_of(greediest))} waiting, each for up to "
                f"{self._queue_timeout:g} s. The queue is full, and the newest of them made room "
                "for another key's. Send fewer at once, or try again shortly.",
                retry_after=self._patience(),
            ),
        )
        self.wake()  # it may have held up others

    def _newcomers(self) -> list[FairQueue[_Waiter]]:
        """The queues of those whose first turn is still to come."""
        return [queue for line, queue in self._queues.items() if not line.again]

    def _waiting_of(self, key: str) -> int:
        return sum(queue.length_of(key) for queue in self._newcomers())

    def _end(self, waiter: _Waiter, error: Exception) -> None:
        self._remove(waiter)
        if not waiter.granted.done():
            waiter.granted.set_exception(error)

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.line]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.line]

    def _grant(self, member: Member, tokens: int, position: int = 0) -> Lease:
        member.in_flight += 1
        member.tokens += tokens
        return Lease(member, tokens, position, clock=self.clock, give_back=self._release)

    def _release(self, member: Member, tokens: int) -> None:
        member.in_flight -= 1
        member.tokens -= tokens
        self.wake()

    def _forget(self, waiter: _Waiter) -> None:
        """Undo a wait that ended early, including a grant that nobody took."""
        if waiter in self._queues.get(waiter.line, ()):
            self._remove(waiter)
            self.wake()  # it may have held up others
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()

    def _choose(
        self,
        tokens: int,
        line: _Line,
        affinity: bytes | None,
        awaited: Set[str] = frozenset(),
    ) -> Member | None:
        return router.choose(
            self.members,
            tokens,
            line.excluded,
            affinity,
            self.clock(),
            again=line.again,
            awaited=awaited,
        )

    def _set_alarm(self) -> None:
        """While anybody waits, look again when a backend may be trusted again."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._queues:
            return
        moment = min(member.changes_at for member in self.members)
        if moment < math.inf:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(moment - self.clock() + _ALARM_SLACK, self.wake)

    def _shut_for(self, again: bool, excluded: Set[str]) -> float | None:
        """Seconds until a backend may be tried again, if all that aren't excluded fail just now.

        None if there is one to send to, or to wait for: one that starts, or is on trial.
        """
        if len(self.members) == 1:
            return None
        waits = []
        for member in self.members:
            if member.name in excluded or member.backend.failure is not None:
                continue
            if router.may_take(member, again) or member.breaker.on_trial:
                return None
            waits.append(member.breaker.retry_in)
        return min(waits, default=None)

    def _full(self) -> Overloaded:
        waiting = f"{_requests(self.waiting)} waiting, each for up to {self._queue_timeout:g} s"
        if not self.ready:
            return ModelLoading(
                f"The model is still loading, and the queue is full: {waiting}. Try again shortly.",
                retry_after=self.seconds_to_ready() or self._patience(),
            )
        return Overloaded(
            f"No slot is free, and the queue is full: {waiting}. Try again shortly.",
            retry_after=self._patience(),
        )

    def _too_late(self) -> Overloaded:
        if not self.ready:
            return ModelLoading(
                f"The model is still loading after {self._queue_timeout:g} s, with "
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


def _rank(line: _Line) -> tuple[bool, int]:
    return line.again, len(line.excluded)


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
