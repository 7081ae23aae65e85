"""One model's backends, and the queue of requests that wait for a slot on one of them.

Rule 1: every change of scheduling state happens here, in synchronous code; ``acquire`` only waits
for what that code decides.

Rule 2: a slot has one owner at any moment: the pool, or one ``Lease``. A waiter that is cancelled
in the same turn of the event loop in which it was granted a slot gives it back at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Self

from reverie.backends.base import Backend
from reverie.errors import BackendError, ModelLoading, Overloaded

FAILURE_COOLDOWN = 2.0
"""Seconds for which a backend that just failed is used only if no other is left."""


class Lease:
    """One slot on one backend, and room for some tokens. Leaving its context gives both back."""

    def __init__(self, pool: Pool, backend: Backend, tokens: int) -> None:
        self._pool: Pool | None = pool
        self._tokens = tokens
        self.backend = backend

    def release(self) -> None:
        """Give the slot back. Idempotent."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool._release(self.backend, self._tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Waiter:
    __slots__ = ("excluded", "granted", "tokens")

    def __init__(self, granted: asyncio.Future[Lease], tokens: int, excluded: Set[str]) -> None:
        self.granted = granted
        self.tokens = tokens
        self.excluded = excluded


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
        self._clock = clock
        self._waiters: deque[_Waiter] = deque()
        self._in_flight = dict.fromkeys((backend.name for backend in backends), 0)
        self._tokens = dict.fromkeys(self._in_flight, 0)
        self._failed_at: dict[str, float] = {}

    @property
    def in_flight(self) -> int:
        return sum(self._in_flight.values())

    def in_flight_on(self, backend: Backend) -> int:
        return self._in_flight[backend.name]

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @property
    def ready(self) -> bool:
        return any(backend.ready for backend in self.backends)

    @property
    def failure(self) -> str | None:
        """Why this model can't be served and never will be without help; None otherwise."""
        failures = [backend.failure for backend in self.backends]
        return next(filter(None, failures), None) if all(failures) else None

    async def acquire(self, tokens: int = 0, excluded: Set[str] = frozenset()) -> Lease:
        """Wait for a slot, with room for ``tokens``, on a backend that isn't ``excluded`` by name.

        Raises:
            Overloaded: the queue is full, or its deadline has passed.
            ModelLoading: no backend became ready in time.
            BackendError: no backend of this model can ever become ready.
        """
        if self.failure is not None:
            raise BackendError("This model can't be served at the moment.", reason=self.failure)
        if not self._waiters and (backend := self._choose(tokens, excluded)) is not None:
            return self._grant(backend, tokens)
        if len(self._waiters) >= self._queue_size:
            raise Overloaded(
                f"{len(self._waiters)} requests already wait for this model. Try again shortly.",
                retry_after=self._patience(),
            )
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tokens, excluded)
        self._waiters.append(waiter)
        self.wake()  # those ahead may have excluded a backend that this one can use
        try:
            async with asyncio.timeout(self._queue_timeout):
                return await waiter.granted
        except TimeoutError:
            self._forget(waiter)
            raise self._too_late() from None
        except BaseException:
            self._forget(waiter)
            raise

    def failed(self, backend: Backend) -> None:
        """Note that a backend failed just now, so that others are preferred for a while."""
        self._failed_at[backend.name] = self._clock()

    def wake(self) -> None:
        """Grant what can be granted. A backend calls this when its readiness changes."""
        if (failure := self.failure) is not None:
            while self._waiters:
                granted = self._waiters.popleft().granted
                if not granted.done():
                    granted.set_exception(
                        BackendError("This model can't be served at the moment.", reason=failure)
                    )
            return
        for waiter in list(self._waiters):
            if (backend := self._choose(waiter.tokens, waiter.excluded)) is None:
                if waiter.excluded:
                    continue  # those behind may use what this one may not
                return  # no overtaking: a large request would never find room
            self._waiters.remove(waiter)
            if not waiter.granted.done():
                waiter.granted.set_result(self._grant(backend, waiter.tokens))

    def _grant(self, backend: Backend, tokens: int) -> Lease:
        self._in_flight[backend.name] += 1
        self._tokens[backend.name] += tokens
        return Lease(self, backend, tokens)

    def _release(self, backend: Backend, tokens: int) -> None:
        self._in_flight[backend.name] -= 1
        self._tokens[backend.name] -= tokens
        self.wake()

    def _forget(self, waiter: _Waiter) -> None:
        """Undo a wait that ended early, including a grant that nobody took."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()

    def _choose(self, tokens: int, excluded: Set[str]) -> Backend | None:
        """Pick the least busy backend that has a free slot and room, failed ones last."""
        free = [
            backend
            for backend in self.backends
            if backend.ready and backend.name not in excluded and self._fits(backend, tokens)
        ]
        return min(free, key=self._burden, default=None)

    def _fits(self, backend: Backend, tokens: int) -> bool:
        """Whether one more request has a slot and room. Alone it always has room: the engine
        itself refuses what is too long, and knows how long it is."""
        running = self._in_flight[backend.name]
        if running >= backend.slots:
            return False
        if running == 0 or backend.capacity is None:
            return True
        return self._tokens[backend.name] + tokens <= backend.capacity

    def _burden(self, backend: Backend) -> tuple[bool, float]:
        failed_at = self._failed_at.get(backend.name)
        cooling = failed_at is not None and self._clock() - failed_at < FAILURE_COOLDOWN
        return cooling, self._in_flight[backend.name] / backend.slots

    def _too_late(self) -> Overloaded:
        if not self.ready:
            return ModelLoading(
                "The model is still loading. Try again shortly.", retry_after=self._patience()
            )
        return Overloaded(
            f"No slot became free within {self._queue_timeout:g} s. Try again shortly.",
            retry_after=self._patience(),
        )

    def _patience(self) -> float:
        """Seconds after which another try is likely to find room: a guess, kept small."""
        return min(30.0, 1.0 + len(self._waiters) / max(1, sum(b.slots for b in self.backends)))
