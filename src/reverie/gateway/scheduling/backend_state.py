"""One backend as its model's pool knows it: what runs there, how fast it is, and its health.

Its health is a circuit breaker (M. T. Nygard, "Release It!", 2nd ed., 2018, §5.2), sans-IO. While
the circuit is *closed*, requests pass. While it is *open*, none does, unless no other backend is
left. It is *half-open* once a wait is over: one request passes, as a trial. ``_TRANSITIONS`` has
every change, and each has a reason, which the log, the admin API and the metrics show.

Rule 1: only a whole answer clears what went before. A first token, or a probe, closes the circuit
on probation: the next failure opens it again, and the wait is twice as long. A backend that answers
probes and fails requests would be trusted again and again otherwise.

Rule 2: a request that began before the circuit opened says nothing of what happened after.

Rule 3: a backend whose circuit is closed, but which failed or was busy just now, or is silent, is
used only if no other has room. One whose connection broke may have died: it is used only if there
is no other to wait for, until a probe or another request shows that it lives.

Rule 4: a backend that drains gets no request, whatever its circuit and whoever else is left: its
operator took it out of service. What runs there ends as it would. So it is with one that leaves:
whoever runs it is about to end it.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

from reverie.backends.base import Backend, Health
from reverie.errors import (
    BackendError,
    ClientError,
    ConnectionLost,
    ModelLoading,
    Overloaded,
    ReverieError,
)
from reverie.gateway.scheduling.speed import Speed
from reverie.log import fields

logger = logging.getLogger("reverie.backends")

Circuit = Literal["closed", "open", "half_open"]
_Event = Literal["failure", "probe_failed", "trial", "first_token", "success", "probe"]

_TRANSITIONS: dict[tuple[Circuit, _Event], Circuit] = {
    ("closed", "failure"): "open",  # too many in a row, or one on probation
    ("closed", "probe_failed"): "open",
    ("closed", "success"): "closed",  # the end of a probation
    ("open", "first_token"): "closed",  # sent there because no other backend was left
    ("open", "success"): "closed",
    ("half_open", "trial"): "half_open",
    ("half_open", "first_token"): "closed",
    ("half_open", "success"): "closed",
    ("half_open", "failure"): "open",  # of the trial
    ("half_open", "probe"): "closed",  # while no trial runs
}
"""What isn't here changes nothing. Open turns to half-open by itself, when the wait is over."""

FAILURES = 3
"""Failures in a row that open the circuit."""
FIRST_WAIT = 1.0
"""Seconds, at most, until the first trial."""
LONGEST_WAIT = 30.0
"""Seconds, at most, between two trials."""
PROBE_WAIT = 1.0
"""Seconds, more or less, until the next probe of a backend that is wanted and failed the last."""

FAILURE_COOLDOWN = 2.0
"""Seconds for which a backend that just failed is used only if no other is left."""
_LONGEST_COOLDOWN = 30.0
"""Seconds, at most, for which a busy backend is left alone, whatever its ``Retry-After`` says."""

SLOW_PROBES = 2
"""Probes in a row that time out, while none of the backend's requests gets anything either, before
it is taken for dead. It may be slow to answer beside a long prompt."""
SILENCE = 5.0
"""Seconds without output for any of its requests after which a backend gets no more of them, if
there is another."""


class LastError(NamedTuple):
    """The latest error of a backend, in an answer or a probe."""

    code: str
    at: float
    """In ``time.time()`` seconds."""


class Ticket:
    """One request that was sent to a backend.

    ``era`` is how often the circuit had opened by then, ``tokens`` what the request may come to.
    """

    __slots__ = ("alone", "era", "tokens")

    def __init__(self, era: int, tokens: int, *, alone: bool) -> None:
        self.era = era
        self.tokens = tokens
        self.alone = alone


class BackendState:
    """One backend of one model.

    Args:
        clock: seconds.
        chance: a number in 0..1. Waits are shortened by up to a half by it, so that gateways that
            saw the same failure don't try again at the same moment.
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
        """What those in flight may come to."""
        self.elsewhere = 0
        """Requests that other gateways had there when they last told."""
        self.gateways = 1
        """Those that send requests there, this one included."""
        self.speed = Speed()
        self.failures = 0
        """Failures since the last whole answer."""
        self.last_error: LastError | None = None
        self.draining = False
        """True while its operator keeps requests from it. The pool sets it."""
        self.leaving = False
        """True while it is about to go, and gets no new request. The pool sets it."""
        self.replaceable = False
        """True if another may take its place when it fails for good, so that waiting helps."""
        self.machine: str | None = None
        """The address of the machine that it runs on, if that is one of a cluster's."""
        self.on_unused: Callable[[], None] | None = None
        """Called when its last request has left, if it was removed. The pool sets it."""
        self.on_trouble: Callable[[], None] = lambda: None
        """Called whenever its health changes, but by time alone. The pool sets it."""
        self.share: tuple[int, int] | None = None
        """The slots and the tokens that this process may use, where several share the backend."""
        self._model = model
        self._clock = clock
        self._chance = chance
        self._closed = True
        self._reason: str | None = None  # of the latest transition
        self._trial: Ticket | None = None
        self._has_loner = False
        self._era = 0
        self._waits = 0  # in a row, since the last whole answer
        self._wait_ends = -math.inf
        self._down_until = -math.inf  # a failed probe is forgotten if no other follows
        self._cooldown_ends = -math.inf
        self._lost_until = -math.inf
        self._asked_for_pause = False
        self._probe_ok = False  # since the last failure
        self._last_output = -math.inf
        self._busy_since = -math.inf
        self._slow_probes = 0
        self._probe: Health | None = None
        self._known: Hashable = None

    # What runs there -------------------------------------------------------------------------

    @property
    def capacity(self) -> float:
        """The share of the model's requests that this backend is meant for."""
        return self.backend.slots * self.backend.weight

    def has_room(self, tokens: int, *, alone: bool = False) -> bool:
        """True if there is a slot and room for one more request. The first always has room: the
        engine itself refuses what is too long, and knows best how long it is.

        Args:
            alone: the request runs beside no other.
        """
        if self.share is not None and not self._share_covers(tokens, alone):
            return False
        if self.in_flight == 0:
            return True
        if self.in_flight >= self.limit or alone or self._has_loner:
            return False
        return self.backend.capacity is None or self.tokens + tokens <= self.backend.capacity

    @property
    def limit(self) -> int:
        """Requests that it may get from here: what others leave, and this gateway's part in any
        case. There a request may have to wait until one of theirs ends."""
        slots = self.backend.slots
        return max(slots - self.elsewhere, -(-slots // self.gateways))

    def has_free_slot(self, *, alone: bool = False) -> bool:
        """True if one more request need not wait for another gateway's, as far as is known."""
        need = self.backend.slots if alone and self.elsewhere else 1
        return self.in_flight + self.elsewhere + need <= self.backend.slots

    @property
    def used(self) -> tuple[int, int]:
        """The slots and the tokens that are in use: all of them, while a request runs alone."""
        capacity = self.backend.capacity
        if self._has_loner:
            return self.backend.slots, capacity or 0
        return self.in_flight, 0 if capacity is None else self.tokens

    def need(self, tokens: int, *, alone: bool) -> tuple[int, int]:
        """The slots and the tokens that a request needs: all of them, if it runs alone."""
        capacity = self.backend.capacity
        if alone or (capacity is not None and tokens > capacity):
            return self.backend.slots, capacity or 0
        return 1, 0 if capacity is None else tokens

    def _share_covers(self, tokens: int, alone: bool) -> bool:
        assert self.share is not None
        used, need = self.used, self.need(tokens, alone=alone)
        return all(u + n <= s for u, n, s in zip(used, need, self.share, strict=True))

    def take(self, tokens: int, *, alone: bool = False) -> Ticket:
        """Note that a request is sent there, as the trial if one is due."""
        if not self.in_flight:
            self._busy_since = self._clock()
        self.in_flight += 1
        self.tokens += tokens
        self._has_loner = self._has_loner or alone
        ticket = Ticket(self._era, tokens, alone=alone)
        if self.circuit == "half_open" and self._trial is None:
            self._trial = ticket
            self._apply("trial")
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        """Note that a request has left. Alone, this says nothing of the backend's health."""
        if self.silent:
            self.on_trouble()  # it may be the last: nothing is expected then
        self.in_flight -= 1
        self.tokens -= ticket.tokens
        if ticket.alone:
            self._has_loner = False
        self._end_trial(ticket)

    def resize(self, ticket: Ticket, tokens: int) -> None:
        """Note what a request that runs there may really come to."""
        self.tokens += tokens - ticket.tokens
        ticket.tokens = tokens

    # Its health ------------------------------------------------------------------------------

    @property
    def circuit(self) -> Circuit:
        if self._closed:
            return "closed"
        return "half_open" if self._trial is not None or self._wait_is_over else "open"

    @property
    def reason(self) -> str | None:
        """Why requests pass, or don't, as a code; None if nothing has happened yet."""
        if not self.in_service:
            return "draining" if self.draining else "leaving"
        if self._closed:
            if self.in_cooldown:
                return "paused" if self.pausing else "cooldown"
            return "silent" if self.silent else self._reason
        if self.circuit == "half_open":
            return "trial_due" if self._trial is None else "trial"
        return "probe_failed" if self.down else self._reason

    @property
    def in_service(self) -> bool:
        """True if it is neither drained nor about to go."""
        return not (self.draining or self.leaving)

    @property
    def admits(self) -> bool:
        """True if a request may pass now."""
        return self._closed or (self._trial is None and self._wait_is_over)

    @property
    def on_trial(self) -> bool:
        """True while a trial runs, whose end decides."""
        return self._trial is not None

    @property
    def down(self) -> bool:
        """True if the latest probe failed."""
        return self._clock() < self._down_until

    @property
    def in_cooldown(self) -> bool:
        """True if it failed, or was busy, just now."""
        return self._clock() < self._cooldown_ends

    @property
    def pausing(self) -> bool:
        """True if it was busy just now, and asked for a pause."""
        return self._asked_for_pause and self.in_cooldown

    @property
    def lost(self) -> bool:
        """True if a connection to it broke just now, and nothing has come from it since."""
        return self._clock() < self._lost_until

    @property
    def needs_time(self) -> bool:
        """True if it failed just now and has answered no probe since, or asked for a pause."""
        return self.in_cooldown and (self._asked_for_pause or not self._probe_ok)

    @property
    def recovered(self) -> bool:
        """True if it has answered a probe since it failed, and asks for no pause."""
        return self._probe_ok and not (self.down or self.pausing)

    @property
    def healthy(self) -> bool:
        """True if it takes requests and there is nothing against it."""
        closed = self._closed and self.in_service and self.backend.ready
        return closed and not (self.in_cooldown or self.lost or self.down or self.silent)

    @property
    def is_aside(self) -> bool:
        """True if no request that has a choice goes there, until ``changes_at`` or ``on_trouble``,
        or until its pool is woken."""
        usable = self.in_service and self.backend.ready and self.admits
        return not usable or self.in_cooldown or self.silent

    @property
    def latest_output(self) -> float:
        """When something came from it, or its present work began."""
        return max(self._last_output, self._busy_since)

    @property
    def silent(self) -> bool:
        """True if its requests got nothing for long: it may hang, or read a long prompt."""
        return self.in_flight > 0 and self._clock() - self.latest_output > SILENCE

    @property
    def retry_in(self) -> float:
        """Seconds until a request may pass; 0 if one may now, or if a trial runs."""
        if self.circuit != "open":
            return 0.0
        return max(self._wait_ends - self._clock(), PROBE_WAIT if self.down else 0.0)

    @property
    def changes_at(self) -> float:
        """When it may be trusted again though nothing happens until then, on the pool's clock."""
        now = self._clock()
        wait_ends = -math.inf if self._closed else max(self._wait_ends, self._down_until)
        ends = self._cooldown_ends, self._lost_until, wait_ends
        return min((at for at in ends if at > now), default=math.inf)

    def on_output(self) -> None:
        """Note a piece of an answer."""
        now = self._clock()
        if now < self._lost_until or (now - self._last_output > SILENCE and self.silent):
            self.on_trouble()
        self._last_output = now
        self._lost_until = -math.inf

    def on_first_token(self, ticket: Ticket) -> None:
        """Note the first piece of an answer."""
        self.on_output()
        if ticket.era == self._era:
            self._apply("first_token")

    def succeeded(self, ticket: Ticket) -> None:
        """Note a whole answer."""
        self.on_output()
        if ticket.era == self._era:
            self._apply("success")
            self.failures = 0
            self._waits = 0

    def failed(self, ticket: Ticket, error: ReverieError, *, counts: bool = True) -> None:
        """Note what ended a request early.

        A request that the engine refuses shows that it works. If it is busy, it is given a pause,
        and hasn't failed.

        Args:
            counts: False leaves a failure uncounted, until ``count_failure``.
        """
        if isinstance(error, BackendError):
            # One that restarts by itself says when it is ready again.
            self._cool_down(error, 0.0 if self.backend.recovers else FAILURE_COOLDOWN)
            if isinstance(error, ConnectionLost) and not self.backend.recovers:
                self._lost_until = self._clock() + FAILURE_COOLDOWN
            if counts:
                self.count_failure(ticket, error)
            self.backend.probe_soon()
            return
        if isinstance(error, Overloaded):
            pause = min(error.retry_after or FAILURE_COOLDOWN, _LONGEST_COOLDOWN)
            # One that loads says when it is ready.
            self._cool_down(error, pause, asked_for=not isinstance(error, ModelLoading))
        elif isinstance(error, ClientError):
            self.on_first_token(ticket)
        self._end_trial(ticket)

    def apply_probe(self) -> None:
        """Note the backend's latest probe, if it is news."""
        health = self.backend.health
        if health is None or health is self._probe:
            return
        self._probe = health
        self._slow_probes = self._slow_probes + 1 if health.timed_out else 0
        now = self._clock()
        if health.ok:
            self._probe_ok = True
            self._down_until = now
            self._lost_until = -math.inf
            if self._trial is None:
                self._apply("probe")
        elif not self._is_outweighed(health):
            self.last_error = LastError(health.error_code, health.checked_at)
            # No wait: the next good probe says more than the time, and costs nobody a request.
            if self._closed:
                self._wait_ends = now
            self._down_until = now + LONGEST_WAIT
            self._apply("probe_failed")

    def note_change(self) -> bool:
        """Note what its backend says of itself now, and its latest probe.

        Returns:
            True if that may change which requests it gets while none waits.
        """
        before, it = (self.healthy, self.admits), self.backend
        self.apply_probe()
        known = it.ready, it.failure, it.slots, it.weight, it.capacity, it.context, it.checked_by
        changed = known != self._known or (self.healthy, self.admits) != before
        self._known = known
        return changed

    @property
    def _wait_is_over(self) -> bool:
        return self._clock() >= self._wait_ends and not self.down

    def _end_trial(self, ticket: Ticket) -> None:
        if self._trial is ticket:
            self._trial = None
            self.on_trouble()

    def _cool_down(self, error: ReverieError, seconds: float, *, asked_for: bool = False) -> None:
        self.on_trouble()
        self.last_error = LastError(error.code, time.time())
        self._cooldown_ends = self._clock() + seconds
        self._asked_for_pause = asked_for
        self._probe_ok = False

    def count_failure(self, ticket: Ticket, error: BackendError) -> None:
        """Count a failure, which may open the circuit."""
        self.failures += 1
        if ticket.era != self._era:
            return
        if self._closed:
            on_probation = self._reason in ("first_token", "probe")
            opens = on_probation or self.failures >= FAILURES
        else:
            # A trial has ended if its failure was left uncounted at first.
            is_trial = self._trial is ticket or self._trial is None
            opens = is_trial and self.circuit == "half_open"
        if opens:
            self._waits += 1
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._waits - 1, 30))
            self._wait_ends = self._clock() + longest * (1 - self._chance() / 2)
            self._apply("failure", error.code)

    def _is_outweighed(self, health: Health) -> bool:
        """True if its requests show that a backend lives whose probe has just failed.

        An engine may be slow to answer beside its work, or serve a model and no list of models.
        """
        had_output = self._clock() - self._last_output <= health.duration
        if had_output:
            self._slow_probes = 0
        working = self.in_flight > 0 and self.failures == 0
        return had_output or (health.timed_out and working and self._slow_probes < SLOW_PROBES)

    def _apply(self, event: _Event, code: str | None = None) -> None:
        """Change the circuit as ``_TRANSITIONS`` has it. ``code``: the reason, if not the event."""
        before = self.circuit
        after = _TRANSITIONS.get((before, event))
        if after is None:
            return
        self._reason = code or event
        if after != "half_open":
            self._closed = after == "closed"
            self._trial = None
        if after == "open":
            self._era += 1
        if after == before == "closed":
            return
        self.on_trouble()
        logger.log(
            logging.WARNING if after == "open" else logging.INFO,
            "backend",
            extra=fields(
                model=self._model,
                backend=self.name,
                state=after,
                reason=self._reason,
                failures=self.failures or None,
                retry_in_s=self.retry_in or None,
            ),
        )
