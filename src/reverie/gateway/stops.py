"""Stop strings that begin in one backend's text and end in the next one's. Sans-IO.

Each engine looks for stop strings in what it generates itself. One that stands across the seam of
two engines is seen by neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["pass", "hold", "stop"]


class SeamStops:
    """Looks for a stop string that began before the seam.

    Args:
        before: the text before it.
    """

    __slots__ = ("_rests", "_seen")

    def __init__(self, stops: Sequence[str], before: str) -> None:
        self._seen = ""
        self._rests = [
            stop[length:]
            for stop in stops
            for length in range(1, len(stop))
            if before.endswith(stop[:length])
        ]
        """What has to follow for each that may have begun."""

    @property
    def possible(self) -> bool:
        """Whether any can still come to an end."""
        return bool(self._rests)

    def feed(self, text: str) -> Verdict:
        """Take the next text after the seam.

        Returns:
            ``stop``: it ends one, and nothing since the seam belongs to the answer. ``hold``: it
            may be a part of one. ``pass``: it isn't, nor will anything be.
        """
        self._seen += text
        if any(self._seen.startswith(rest) for rest in self._rests):
            return "stop"
        self._rests = [rest for rest in self._rests if rest.startswith(self._seen)]
        return "hold" if self._rests else "pass"
