"""How many engines a model needs: plain functions of what runs and waits on the gateways."""

from __future__ import annotations

from collections import deque

FIRST_PAUSE = 0.5
"""Seconds until an engine that failed is started again; doubled with each failure in a row."""
LONGEST_PAUSE = 30.0


def engines_for(requests: int, slots: int) -> int:
    """Engines on which so many requests run at once, at ``slots`` each."""
    return -(-max(0, requests) // max(1, slots))


def within(number: int, least: int, most: int) -> int:
    return max(least, min(number, most))


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16)) if failures else 0.0


class Peak:
    """The highest number of a sliding window of time."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, int]] = deque()
        """Each number that no later one has reached, with the last time it held."""

    def add(self, now: float, number: int) -> None:
        while self._falling and self._falling[-1][1] <= number:
            self._falling.pop()
        self._falling.append((now, number))

    def over(self, now: float, seconds: float) -> int:
        """The highest number of the last ``seconds``, or the latest; 0 if there was none."""
        while len(self._falling) > 1 and self._falling[0][0] <= now - seconds:
            self._falling.popleft()
        return self._falling[0][1] if self._falling else 0
