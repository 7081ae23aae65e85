"""Limits per minute, on concurrency and on money: what was used of them, and what is left.

Pure functions of numbers that the caller reads in a transaction. The decision falls between that
transaction's reads and its writes, so that gateways which share a store can't grant the same room
twice.

A *minute* is any 60 seconds, not one of the clock's: use is counted per second and summed over the
last 61 seconds, the oldest counted whole. So no limit can be exceeded across a boundary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct, structs

from reverie.errors import InsufficientQuota, RateLimitExceeded, RateStatus
from reverie.money import Period, format_amount
from reverie.times import day_of, first_of_month

SPAN = 61
"""Seconds over which use is summed, the current one included."""


class RateLimits(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Requests and tokens per minute, and requests at once; None: unlimited."""

    rpm: int | None = None
    """Requests in any 60 seconds."""
    tpm: int | None = None
    """Tokens in any 60 seconds, prompts and answers together."""
    concurrency: int | None = None
    """Requests at once, waiting ones included."""

    def __bool__(self) -> bool:
        """True if anything is limited."""
        return self != _UNLIMITED

    @staticmethod
    def all_of(several: Sequence[RateLimits]) -> RateLimits:
        """What is within several limits, of which there is at least one."""
        if len(several) == 1:
            return several[0]
        kinds = zip(*map(structs.astuple, several), strict=True)
        return RateLimits(
            *(min((n for n in kind if n is not None), default=None) for kind in kinds)
        )


_UNLIMITED = RateLimits()


class WindowSums(Struct, frozen=True):
    """What one subject used in the last ``SPAN`` seconds, and the newest seconds in which it did.

    The seconds are 0 where nothing was used.
    """

    requests: int = 0
    tokens: int = 0
    last_request: int = 0
    last_token: int = 0


NOTHING_USED = WindowSums()


class LimitUsage:
    """What one subject has used of its limits, as one transaction sees it.

    Args:
        label: what error messages call the subject, as in "This key".
        running: the subject's open requests.
        seconds: gives (second, requests, tokens) of each second in the sums. It is asked once, and
            only to tell refused clients how long to wait, since a busy subject has many.
    """

    __slots__ = ("_added", "_newest", "_read", "_seconds", "_used", "label", "limits", "running")

    def __init__(
        self,
        label: str,
        limits: RateLimits,
        sums: WindowSums = NOTHING_USED,
        running: int = 0,
        seconds: Callable[[], Iterable[tuple[int, int, int]]] = tuple,
    ) -> None:
        self.label = label
        self.limits = limits
        self.running = running
        self._used = (sums.requests, sums.tokens)
        self._newest = (sums.last_request, sums.last_token)
        self._seconds = seconds
        self._read: list[tuple[int, int, int]] | None = None
        self._added: list[tuple[int, int, int]] = []

    def admit(self, tokens: int, now: float, least: int | None = None) -> None:
        """Refuse one more request of so many tokens, unless every limit allows it.

        Args:
            now: seconds since 1970.
            least: what it would come to if its prompt were empty.

        Raises:
            RateLimitExceeded
        """
        limits = self.limits
        requests_used, tokens_used = self._used
        if limits.tpm is not None and tokens > limits.tpm:
            raise RateLimitExceeded(
                f"{self.label} may use {limits.tpm} tokens per minute, and this request alone may "
                f"come to {tokens} (its prompt and max_tokens). Lower max_tokens or shorten it.",
                param="max_tokens",
                rate=self.status(now),
                by_size=least is not None and tokens_used + least < limits.tpm,
            )
        if limits.rpm is not None and requests_used + 1 > limits.rpm:
            raise self._refusal(
                f"{limits.rpm} requests per minute", self._wait(0, limits.rpm - 1, now), now
            )
        if limits.tpm is not None and tokens_used + tokens > limits.tpm:
            raise self._refusal(
                f"{limits.tpm} tokens per minute, of which {tokens_used} are used and this request "
                f"needs {tokens}",
                self._wait(1, limits.tpm - tokens, now),
                now,
                by_size=least is not None and tokens_used + least < limits.tpm,
            )
        if limits.concurrency is not None and self.running + 1 > limits.concurrency:
            raise self._refusal(f"{limits.concurrency} requests at once", 1.0, now)

    def add(self, tokens: int, now: float) -> None:
        """Count one admitted request."""
        second = int(now)
        requests, used = self._used
        self._used = (requests + 1, used + tokens)
        last_request, last_token = self._newest
        self._newest = (max(last_request, second), max(last_token, second if tokens else 0))
        self._added.append((second, 1, tokens))
        self.running += 1

    def status(self, now: float) -> RateStatus:
        """What is left of the limits, for the ``x-ratelimit-*`` headers."""
        requests, tokens = self._used
        limits = self.limits
        return RateStatus(
            limit_requests=limits.rpm,
            remaining_requests=None if limits.rpm is None else max(0, limits.rpm - requests),
            reset_requests=self._reset(0, now),
            limit_tokens=limits.tpm,
            remaining_tokens=None if limits.tpm is None else max(0, limits.tpm - tokens),
            reset_tokens=self._reset(1, now),
        )

    def _wait(self, kind: int, room: int, now: float) -> float:
        """Seconds until at most ``room`` of the used requests (0) or tokens (1) still count."""
        left = self._used[kind]
        if self._read is None:
            self._read = list(self._seconds())
        for second, *used in sorted([*self._read, *self._added]):
            left -= used[kind]
            if left <= room:
                return max(0.0, second + SPAN - now)
        return float(SPAN)

    def _reset(self, kind: int, now: float) -> float:
        """Seconds until no used request (0) or token (1) counts any more."""
        newest = self._newest[kind]
        return max(0.0, newest + SPAN - now) if newest else 0.0

    def _refusal(
        self, limit: str, wait: float, now: float, *, by_size: bool = False
    ) -> RateLimitExceeded:
        wait = max(1.0, math.ceil(wait))
        return RateLimitExceeded(
            f"{self.label} may use {limit}. Try again in {wait:.0f} s.",
            retry_after=wait,
            rate=self.status(now),
            by_size=by_size,
        )


class BudgetUsage(Struct):
    """What a key may spend in the current period, and what it has spent of that."""

    budget: int
    currency: str
    period: Period
    spent: int
    """Nano-units: the cost of closed rows, and what is reserved for open ones."""

    def admit(self, cost: int, now: float, least: int | None = None) -> None:
        """Refuse one more request that may cost so much, unless the budget allows it.

        Args:
            least: what it would cost if its prompt were empty.

        Raises:
            InsufficientQuota
        """
        if self.spent + cost <= self.budget and (cost or self.spent < self.budget):
            return
        by_size = least is not None and self.spent + least < self.budget
        budget = format_amount(self.budget, self.currency)
        if cost > self.budget:
            raise InsufficientQuota(
                f"This key may spend {budget} per {self.period}, and this request alone may cost "
                f"{format_amount(cost, self.currency)}. Lower max_tokens or shorten it.",
                by_size=by_size,
            )
        left = max(0, self.budget - self.spent)
        raise InsufficientQuota(
            f"This key may spend {budget} per {self.period}, of which "
            f"{format_amount(left, self.currency)} is left or not set aside for running requests.",
            retry_after=math.ceil(period_end(self.period, now) - now),
            by_size=by_size,
        )


def period_begin(period: Period, now: float) -> int:
    """The first day, as days since 1970, of the period (UTC) in which ``now`` lies."""
    today = day_of(int(now * 1000))
    return first_of_month(today) if period == "month" else today


def period_end(period: Period, now: float) -> float:
    """The end, in seconds since 1970, of the period (UTC) in which ``now`` lies."""
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def tightest(statuses: Iterable[RateStatus]) -> RateStatus | None:
    """Several subjects' statuses as one that a client can obey: the least that is left of each."""
    listed = list(statuses)
    return functools.reduce(RateStatus.tighter, listed) if listed else None
