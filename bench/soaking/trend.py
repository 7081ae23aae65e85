"""Whether what was sampled grows: a line through it, and how far that can be trusted. No I/O."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

BLOCKS = 12
"""Samples are averaged into so many, since neighbours aren't independent of each other."""


class Trend(NamedTuple):
    """A straight line through samples, by least squares."""

    slope: float
    error: float
    """The slope's standard error."""

    def surely_above(self, bound: float) -> bool:
        """Whether the slope is beyond a bound, and that isn't chance."""
        return self.slope - 2 * self.error > bound


def trend(xs: Sequence[float], ys: Sequence[float]) -> Trend | None:
    """The line; None: there are too few samples, or they are all at one place."""
    if len(xs) < 2 * BLOCKS:
        return None
    means_x, means_y = _block_means(xs), _block_means(ys)
    try:
        slope, intercept = statistics.linear_regression(means_x, means_y)
    except statistics.StatisticsError:
        return None
    centre = statistics.fmean(means_x)
    spread = sum((x - centre) ** 2 for x in means_x)
    left = sum((y - slope * x - intercept) ** 2 for x, y in zip(means_x, means_y, strict=True))
    return Trend(slope, math.sqrt(left / (BLOCKS - 2) / spread))


def _block_means(values: Sequence[float]) -> list[float]:
    bounds = [round(number * len(values) / BLOCKS) for number in range(BLOCKS + 1)]
    return [statistics.fmean(values[a:b]) for a, b in itertools.pairwise(bounds)]
