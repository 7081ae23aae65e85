"""One backend as its model's pool knows it: what runs there, how fast it is, how it fared."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import NamedTuple

from reverie.backends.base import Backend, Health
from reverie.errors import BackendError, ClientError, ModelLoading, Overloaded, ReverieError
from reverie.gateway.scheduling.circuit_breaker import Breaker, State, Ticket
from reverie.log import fields

logger = logging.getLogger("reverie.backends")

FAILURE_COOLDOWN = 2.0
"""Seconds for which a backend that just failed is used only if no other is left."""
_LONGEST_COOLDOWN = 30.0
"""Seconds that a busy backend's own ``Retry-After`` is believed, at the most."""

SLOW_PROBES = 2
"""Probes in a row without an answer that a backend with requests must not have, in which nothing
comes for any of these either. It may be slow to answer beside a long prompt."""

QUIET = 5.0
"""Seconds without a piece of any answer after which a backend with requests gets no more of them,
if there is another."""

_SMOOTHING = 0.2
"""The weight of the newest measurement."""
_FORGOTTEN_AFTER = 120.0
"""Seconds after which a measurement holds no more: who was slow then is tried again."""
_TYPICAL_ANSWER = 128
"""Tokens of the answer by which backends are compared."""


class Speed:
    """How fast a backend answers: moving averages over the answers that came to their end.

    One that fails is fast to do so; only whole answers count.
    """

    __slots__ = ("_at", "per_token", "ttft")

    def __init__(self) -> None:
        self.ttft: float | None = None
        """Seconds from the grant of a slot to the first token."""
        self.per_token: float | None = None
        """Seconds from one token to the next."""
        self._at = -math.inf

    def measured(self, now: float, ttft: float, per_token: float | None) -> None:
        """Add one answer; ``per_token`` is None if it had too few tokens to tell."""
        if now - self._at > _FORGOTTEN_AFTER:
            self.ttft = self.per_token = None
        self._at = now
        self.ttft = _smoothed(self.ttft, ttft)
        if per_token is not None:
            self.per_token = _smoothed(self.per_token, per_token)

    def expected(self, now: float) -> float | None:
        """Seconds that a typical answer takes; None if that isn't known (any more)."""
        if self.ttft is None or self.per_token is None or now - self._at > _FORGOTTEN_AFTER:
            return None
        return self.ttft + self.per_token * _TYPICAL_ANSWER


def _smoothed(before: float | None, new: float) -> float:
    return new if before is None else before + _SMOOTHING * (new - before)


class Mishap(NamedTuple):
    """An error of a backend."""

    code: str
    at: float
    """On the pool's clock."""


class BackendState:
    """One backend of one model.

    Args:
        clock: seconds.
        chance: as ``Breaker`` takes it.
    """

    def __init__(
        self,
        model: str,
        backend: Backend,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.backend = backend
        self.name = backend.name
        self.in_flight = 0
        self.tokens = 0
        self.speed = Speed()
        self.breaker = Breaker(self._say, clock=clock, chance=chance)
        self.last_error: Mishap | None = None
        self._model = model
        self._clock = clock
        self._cool_until = -math.inf
        self._pauses = False
        self._probe_ok = False
        self._worked_at = -math.inf
        self._busy_since = -math.inf
        self._slow_probes = 0
        self._probe: Health | None = None

    @property
    def capacity(self) -> float:
        """The share of the model's requests that this backend is meant for."""
        return self.backend.slots * self.backend.weight

    @property
    def in_cooldown(self) -> bool:
        """Whether it failed, or was busy, just now."""
        return self._clock() < self._cool_until

    @property
    def silent(self) -> bool:
        """Whether its requests brought nothing for long: it may hang, or read a long prompt."""
        latest = max(self._worked_at, self._busy_since)
        return self.in_flight > 0 and self._clock() - latest > QUIET

    @property
    def failing(self) -> bool:
        """Whether it failed just now, and no probe has shown since that it is well."""
        return self.in_cooldown and not (self._pauses or self._probe_ok)

    @property
    def recovered(self) -> bool:
        """Whether it has answered a probe since it failed, and asked for no pause."""
        return self._probe_ok and not (self.breaker.down or self.pausing)

    @property
    def pausing(self) -> bool:
        """Whether it is cooling because it was busy, and asked for that."""
        return self._pauses and self.in_cooldown

    @property
    def changes_at(self) -> float:
        """When it may be trusted again though nothing happens till then, on the pool's clock."""
        now = self._clock()
        moments = (self._cool_until, self.breaker.changes_at)
        return min((moment for moment in moments if moment > now), default=math.inf)

    def has_room(self, tokens: int) -> bool:
        """Whether one more request has a slot and room. Alone it always has room: the engine
        itself refuses what is too long, and knows how long it is."""
        if self.in_flight >= self.backend.slots:
            return False
        if self.in_flight == 0 or self.backend.capacity is None:
            return True
        return self.tokens + tokens <= self.backend.capacity

    def take(self, tokens: int) -> None:
        """One more request runs there."""
        if not self.in_flight:
            self._busy_since = self._clock()
        self.in_flight += 1
        self.tokens += tokens

    def give_back(self, tokens: int) -> None:
        """One request no longer does."""
        self.in_flight -= 1
        self.tokens -= tokens

    def started(self, ticket: Ticket) -> None:
        """Note a request's first token."""
        self.worked()
        self.breaker.started(ticket)

    def worked(self) -> None:
        """Note a sign of life: a piece of an answer."""
        self._worked_at = self._clock()

    def succeeded(self, ticket: Ticket) -> None:
        """Note an answer that came to its end."""
        self.worked()
        self.breaker.succeeded(ticket)

    def failed(self, ticket: Ticket, error: ReverieError) -> None:
        """Note what ended a request early, by whose fault it is.

        A request that the engine refuses shows that it works. One that finds it busy asks for a
        pause, and is no failure.
        """
        if isinstance(error, BackendError):
            # One that restarts by itself says by being ready that it is back.
            self._cool(error, 0.0 if self.backend.recovers else FAILURE_COOLDOWN)
            self._pauses = self._probe_ok = False
            self.breaker.failed(ticket, error.code)
            self.backend.probe_soon()
            return
        if isinstance(error, Overloaded):
            self._cool(error, min(error.retry_after or FAILURE_COOLDOWN, _LONGEST_COOLDOWN))
            # One that loads is ready when a probe says so.
            self._pauses = not isinstance(error, ModelLoading)
            self._probe_ok = False
        elif isinstance(error, ClientError):
            self.started(ticket)
        self.breaker.left(ticket)

    def _cool(self, error: ReverieError, seconds: float) -> None:
        now = self._clock()
        self.last_error = Mishap(error.code, now)
        self._cool_until = now + seconds

    def apply_probe(self) -> None:
        """Take notice of the backend's latest probe, if that is news."""
        health = self.backend.health
        if health is None or health is self._probe:
            return
        self._probe = health
        self._slow_probes = self._slow_probes + 1 if health.timed_out else 0
        if health.ok:
            self._probe_ok = True
            self.breaker.probed(True, "")
        elif not self._outweighed(health):
            self.last_error = Mishap(health.error_code, self._clock())
            self.breaker.probed(False, health.error_code)

    def _outweighed(self, health: Health) -> bool:
        """Whether requests say that a backend lives which has just failed a probe.

        An engine may be slow to answer beside its work, or serve a model and no list of models.
        """
        worked = self._clock() - self._worked_at <= health.duration
        if worked:
            self._slow_probes = 0
        at_work = self.in_flight > 0 and self.breaker.failures == 0
        return worked or (health.timed_out and at_work and self._slow_probes < SLOW_PROBES)

    def _say(self, state: State, reason: str) -> None:
        retry = self.breaker.retry_in if state == "open" else None
        logger.log(
            logging.WARNING if state == "open" else logging.INFO,
            "backend",
            extra=fields(
                model=self._model,
                backend=self.name,
                state=state,
                reason=reason,
                failures=self.breaker.failures or None,
                retry_in_s=retry,
            ),
        )
