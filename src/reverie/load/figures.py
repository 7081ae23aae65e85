"""What a load came to: percentiles of each figure, rates, and failures by their names.

The definitions are those of aiperf and of vLLM's benchmark; the figures of both can be compared
with these.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from reverie.load.answers import Outcome
from reverie.load.run import Load

PERCENTS = (50, 75, 90, 95, 99)
LATE = 0.005
"""Seconds of this loop's lag (p99) from which its figures are too high."""
_MILLI = 1e3


def percentile(values: Iterable[float], percent: float) -> float:
    """Between two values it lies on the line that joins them, as numpy's.

    Raises:
        ValueError: there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


class Distribution(Struct, frozen=True):
    """How the values of one figure lie."""

    values: Sequence[float]
    """In ascending order; at least one."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        """None: there are no values."""
        ordered = sorted(values)
        return cls(ordered) if ordered else None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    def percentile(self, percent: float) -> float:
        return percentile(self.values, percent)

    def to_json(self) -> dict[str, float]:
        return {
            "count": len(self.values),
            "mean": self.mean,
            "std": statistics.pstdev(self.values, self.mean),
            "min": self.values[0],
            **{f"p{percent}": self.percentile(percent) for percent in PERCENTS},
            "max": self.values[-1],
        }


class Report(Struct, frozen=True, kw_only=True):
    """The figures of one run, of the requests that were answered whole."""

    seconds: float
    """From the first request to the last token."""
    sent: int
    answered: int
    failures: dict[tuple[str, str], int]
    """Name and first sentence of each kind of failure → how many."""
    unfinished: int
    """Requests that were under way when the run was stopped."""
    prompt_tokens: int
    tokens: int
    counted_here: int
    """Answers whose tokens the server didn't count: their events with content were."""
    figures: dict[str, Distribution]
    """By their names in JSON; those that can't be had are missing."""
    lag: Distribution | None
    """Milliseconds by which the load's own loop was late."""

    @property
    def requests_per_second(self) -> float:
        return self._a_second(self.answered)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers, all of them together."""
        return self._a_second(self.tokens)

    @property
    def all_tokens_per_second(self) -> float:
        """Tokens of prompts and answers."""
        return self._a_second(self.prompt_tokens + self.tokens)

    def _a_second(self, count: int) -> float:
        return count / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def warnings(self) -> list[str]:
        """What keeps the figures from meaning what they seem to."""
        found = []
        if self.lag is not None and (late := self.lag.percentile(99)) > LATE * _MILLI:
            found.append(
                f"this machine was too busy, the figures are too high: the load itself was late "
                f"by up to {late:.0f} ms (p99). Run it on another machine, or ask for less"
            )
        if self.counted_here:
            found.append(
                f"the server didn't count the tokens of {self.counted_here} answers: their events "
                "were counted, which may hold several tokens each"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "requests": {
                "sent": self.sent,
                "answered": self.answered,
                "failed": self.failed,
                "unfinished": self.unfinished,
            },
            "failures": [
                {"name": name, "message": sentence, "count": count}
                for (name, sentence), count in self.failures.items()
            ],
            "requests_per_second": self.requests_per_second,
            "output_tokens_per_second": self.tokens_per_second,
            "total_tokens_per_second": self.all_tokens_per_second,
            "figures": {name: values.to_json() for name, values in self.figures.items()},
            "loop_lag_ms": None if self.lag is None else self.lag.to_json(),
            "warnings": self.warnings,
        }


def report(load: Load) -> Report:
    """Of a run that has ended."""
    whole = [outcome for outcome in load.outcomes if outcome.failure is None]
    began = min((outcome.started for outcome in whole), default=0.0)
    return Report(
        seconds=max((outcome.last for outcome in whole), default=0.0) - began,
        sent=load.sent,
        answered=len(whole),
        failures=_failures(load.outcomes),
        unfinished=load.under_way,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in whole),
        tokens=sum(outcome.tokens for outcome in whole),
        counted_here=sum(outcome.counted_here for outcome in whole),
        figures={
            name: found
            for name, values in _values(whole).items()
            if (found := Distribution.of(values)) is not None
        },
        lag=Distribution.of(late * _MILLI for late in load.lag),
    )


def _values(whole: Sequence[Outcome]) -> dict[str, Iterable[float]]:
    streamed = [outcome for outcome in whole if outcome.first]
    itl = [itl for outcome in streamed if (itl := outcome.itl) is not None]
    return {
        "ttft_ms": (outcome.ttft * _MILLI for outcome in streamed),
        "itl_ms": (value * _MILLI for value in itl),
        "inter_chunk_ms": (gap * _MILLI for outcome in streamed for gap in outcome.gaps),
        "request_latency_ms": (outcome.latency * _MILLI for outcome in whole),
        "output_tokens_per_second_per_user": (1 / value for value in itl if value),
        "prompt_tokens": (outcome.prompt_tokens for outcome in whole if outcome.prompt_tokens),
        "output_tokens": (outcome.tokens for outcome in whole),
    }


def _failures(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], int]:
    """The most frequent first."""
    failed = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    sentences: dict[str, str] = {}
    for failure in failed:
        sentences.setdefault(failure.name, failure.sentence)
    counts = Counter(failure.name for failure in failed)
    return {(name, sentences[name]): count for name, count in counts.most_common()}
