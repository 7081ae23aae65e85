"""What the gateways' processes take while they are soaked, and whether it grows."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cpus import own_mib

from soaking.site import Gateway
from soaking.trend import Trend, trend

ENOUGH_REQUESTS = 20_000
"""Requests of a process below which its growth can't be told from its warming up."""
MOST_MIB = 1.0
"""Per 100,000 requests."""
MOST_DESCRIPTORS = 12.0
MOST_THREADS = 6.0
"""From the first sample that counts to the last. A pool of threads grows as it is needed, to six of
them on a machine of two cores."""


_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 24


class Sample(NamedTuple):
    """One process at one moment."""

    seconds: float
    """Since the soak began."""
    process: str
    pid: int
    requests: float
    """That this process has answered: its share of its gateway's."""
    mib: float
    """Memory that isn't in files."""
    descriptors: int
    threads: int


def sample(gateway: Gateway, seconds: float) -> list[Sample]:
    """Each of a gateway's processes as it is now. Blocks for some milliseconds."""
    pids = gateway.pids
    found = []
    for number, pid in enumerate(pids):
        serves = number > 0 or gateway.workers == 1
        kind = "" if gateway.workers == 1 else f", worker {pid}" if serves else ", parent"
        share = gateway.requests / gateway.workers
        try:
            threads, descriptors = (_count(f"/proc/{pid}/{what}") for what in ("task", "fd"))
        except OSError:
            continue  # it has just ended
        name = f"gateway {gateway.name}{kind}"
        mib = own_mib(pid, "Pss_Anon")
        found.append(Sample(seconds, name, pid, share, mib, descriptors, threads))
    return found


def _count(folder: str) -> int:
    return len(os.listdir(folder))


class Growth(NamedTuple):
    """What one process, in its whole life since the warm-up, has taken more and more of."""

    process: str
    samples: int
    requests: float
    first_mib: float
    last_mib: float
    mib: Trend | None
    """MiB per 100,000 requests."""
    descriptors: Trend | None
    threads: Trend | None
    """From the first sample to the last."""
    drawn: str
    """Its memory from the least to the most, in blocks."""

    @property
    def judged(self) -> bool:
        """Whether it ran for long enough to tell."""
        return self.mib is not None and self.requests >= ENOUGH_REQUESTS

    def findings(self) -> list[str]:
        """In which way it isn't flat."""
        found = []
        bounds = (
            (self.mib, MOST_MIB, "MiB per 100,000 requests"),
            (self.descriptors, MOST_DESCRIPTORS, "descriptors"),
            (self.threads, MOST_THREADS, "threads"),
        )
        for line, bound, unit in bounds:
            if self.judged and line is not None and line.surely_above(bound):
                found.append(f"{self.process} grew by {line.slope:.1f} {unit}, of {bound:g}")
        return found


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Of each process that was there at the last sample, since the first of these."""
    lives: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for one in samples:
        lives[one.process, one.pid].append(one)
    newest = max((one.seconds for one in samples), default=0.0)
    return [
        _growth(name, life)
        for (name, _), life in sorted(lives.items())
        if life[-1].seconds >= newest - 1e-6
    ]


def _growth(name: str, life: list[Sample]) -> Growth:
    requests = [one.requests / 100_000 for one in life]
    span = max(life[-1].seconds - life[0].seconds, 1e-6)
    time = [(one.seconds - life[0].seconds) / span for one in life]
    return Growth(
        name,
        len(life),
        life[-1].requests - life[0].requests,
        life[0].mib,
        life[-1].mib,
        trend(requests, [one.mib for one in life]),
        trend(time, [float(one.descriptors) for one in life]),
        trend(time, [float(one.threads) for one in life]),
        _draw([one.mib for one in life]),
    )


def _draw(values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    width = min(len(values), _WIDTH)
    chosen = [values[number * len(values) // width] for number in range(width)]
    step = (most - least) / (len(_BLOCKS) - 1) or 1.0
    return "".join(_BLOCKS[round((value - least) / step)] for value in chosen)


def write(file: Path, samples: Sequence[Sample]) -> None:
    """As CSV."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(Sample._fields)
        writer.writerows(samples)


def read(file: Path) -> list[Sample]:
    """What ``write`` wrote."""
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))[1:]
    return [
        Sample(float(s), name, int(pid), float(requests), float(mib), int(fds), int(threads))
        for s, name, pid, requests, mib, fds, threads in rows
    ]
