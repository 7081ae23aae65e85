"""Whether a backend is trusted with requests: a circuit breaker, sans-IO.

M. T. Nygard, "Release It!", 2nd ed., 2018, §5.2. *Closed*: requests pass. *Open*: none does, after
failures in a row or a failed probe. *Half-open*, once a wait is over: one request is let through
as a trial. What becomes of it, or of a probe, closes the breaker or opens it again, and each
opening in a row waits twice as long as the one before.

Rule 1: only an answer that came to its end clears what went before. A first token, or a probe, ends
a wait; the next failure opens the breaker again at once. A backend that answers probes and fails
requests would else be trusted again and again.

Rule 2: a request says nothing of what happened after the breaker opened if it began before.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 3
"""Failures in a row that open a breaker."""
FIRST_WAIT = 1.0
"""Seconds, at the most, until the first trial."""
LONGEST_WAIT = 30.0
"""Seconds, at the most, between two trials."""
PROBE_WAIT = 1.0
"""Seconds, more or less, until the next probe of a backend that is wanted and failed the last."""


class Ticket:
    """One request that was let through."""

    __slots__ = ("era", "trial")

    def __init__(self, era: int, *, trial: bool) -> None:
        self.era = era
        self.trial = trial


class Breaker:
    """One backend's breaker.

    Args:
        on_change: called with the new state and the reason, a code of ours.
        clock: seconds.
        chance: a number in 0..1. Waits are shortened by up to a half by it, so that gateways
            which saw the same failure don't try again at the same moment.
    """

    def __init__(
        self,
        on_change: Callable[[State, str], None] = lambda state, reason: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.failures = 0
        """Failures since the last success."""
        self._on_change = on_change
        self._clock = clock
        self._chance = chance
        self._closed = True
        self._probation = False  # closed, but not by a success
        self._era = 0  # counts the openings
        self._waits = 0  # in a row, since the last success
        self._due = 0.0  # when the wait is over
        self._down_until = 0.0  # the last probe failed; without another this is forgotten
        self._trial: Ticket | None = None

    @property
    def state(self) -> State:
        if self._closed:
            return "closed"
        return "half_open" if self._trial is not None or self._is_due() else "open"

    @property
    def admits(self) -> bool:
        """Whether a request may pass now."""
        return self._closed or (self._trial is None and self._is_due())

    @property
    def on_trial(self) -> bool:
        """Whether a trial runs, whose end decides."""
        return self._trial is not None

    @property
    def down(self) -> bool:
        """Whether the last probe failed."""
        return self._clock() < self._down_until

    @property
    def retry_in(self) -> float:
        """Seconds until a request may pass; 0 where one may, or where a trial runs."""
        if self.state != "open":
            return 0.0
        return max(self._due - self._clock(), PROBE_WAIT if self.down else 0.0)

    @property
    def changes_at(self) -> float:
        """When its wait is over, on its clock; in the past where it doesn't wait."""
        return -math.inf if self._closed else max(self._due, self._down_until)

    def begin(self) -> Ticket:
        """Note that a request is sent, whether or not it was to pass."""
        ticket = Ticket(self._era, trial=not self._closed and self.admits)
        if ticket.trial:
            self._trial = ticket
            self._on_change("half_open", "trial")
        return ticket

    def started(self, ticket: Ticket) -> None:
        """Note a request's first token."""
        if ticket.era == self._era and not self._closed:
            self._close("first_token")
            self._probation = True

    def succeeded(self, ticket: Ticket) -> None:
        """Note an answer that came to its end."""
        if ticket.era != self._era:
            return
        if not self._closed:
            self._close("success")
        self._probation = False
        self.failures = 0
        self._waits = 0

    def failed(self, ticket: Ticket, reason: str) -> None:
        """Note that the backend let a request down."""
        self.failures += 1
        if ticket.era != self._era:
            return
        if ticket.trial or (self._closed and (self._probation or self.failures >= FAILURES)):
            self._waits += 1
            self._open(self._wait(), reason)

    def left(self, ticket: Ticket) -> None:
        """Note that a request ended in a way that says nothing of the backend."""
        if self._trial is ticket:
            self._trial = None

    def probed(self, good: bool, reason: str) -> None:
        """Note a probe's result."""
        now = self._clock()
        if not good:
            # No wait: the next good probe says more than the time, and costs nobody a request.
            self._down_until = now + LONGEST_WAIT
            if self._closed:
                self._open(0.0, reason)
            return
        self._down_until = now
        if not self._closed and self._trial is None and self._is_due():
            self._close("probe")
            self._probation = True

    def _is_due(self) -> bool:
        return self._clock() >= self._due and not self.down

    def _wait(self) -> float:
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._waits - 1, 30))
        return float(longest * (1 - self._chance() / 2))

    def _open(self, wait: float, reason: str) -> None:
        self._closed = False
        self._probation = False
        self._trial = None
        self._era += 1
        self._due = self._clock() + wait
        self._on_change("open", reason)

    def _close(self, reason: str) -> None:
        self._closed = True
        self._trial = None
        self._on_change("closed", reason)
