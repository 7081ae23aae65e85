"""How fast a backend answers."""

from __future__ import annotations

import math

_SMOOTHING = 0.2
"""The weight of the newest measurement."""
_STALE_AFTER = 120.0
"""Seconds after which a measurement is forgotten: a backend that was slow then is tried again."""
_TYPICAL_ANSWER = 128
"""Tokens of the answer by which backends are compared."""


class Speed:
    """How fast a backend answers: moving averages over its whole answers.

    Answers that were cut don't count: a backend that fails is fast to do so.
    """

    __slots__ = ("_at", "per_token", "ttft")

    def __init__(self) -> None:
        self.ttft: float | None = None
        """Seconds from the grant of a slot to the first token."""
        self.per_token: float | None = None
        """Seconds from one token to the next."""
        self._at = -math.inf

    def add(self, now: float, ttft: float, per_token: float | None) -> None:
        """Add one answer; ``per_token`` is None if it had too few tokens to tell."""
        if now - self._at > _STALE_AFTER:
            self.ttft = self.per_token = None
        self._at = now
        self.ttft = _smoothed(self.ttft, ttft)
        if per_token is not None:
            self.per_token = _smoothed(self.per_token, per_token)

    def expected(self, now: float) -> float | None:
        """Seconds that a typical answer takes; None if unknown, or measured too long ago."""
        if self.ttft is None or self.per_token is None or now - self._at > _STALE_AFTER:
            return None
        return self.ttft + self.per_token * _TYPICAL_ANSWER


def _smoothed(before: float | None, new: float) -> float:
    return new if before is None else before + _SMOOTHING * (new - before)
