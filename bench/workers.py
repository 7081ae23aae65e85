"""Measures what a second worker gains: ``make bench-workers``.

Servers with one worker and with two are asked in turn, on all CPUs of this machine, which load and
engine need as well. So the gain is bounded: with C cores, and s and l microseconds of CPU for an
answer at the server and at load and engine, no server can give more than C / (s + l) answers a
second. The table has that bound beside the rate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import uvloop
from cpus import ALL_CPUS, cpu_seconds
from load import saturate
from rich.console import Console
from rich.table import Table
from servers import config, reverie, run
from stores import make
from wire import chat

CLIENTS = 64
TOKENS = 8
"""Of an answer: few, since the engine writes each by itself, which would be most of the work."""
_ENGINE = (sys.executable, str(Path(__file__).parent / "engine.py"))


class Round(NamedTuple):
    """What one server did in a while."""

    rate: float
    busy: float
    """Cores that the server used."""
    cost: float
    """Microseconds of CPU for an answer, at the server."""
    load_cost: float
    """And at load and engine."""

    @property
    def bound(self) -> float:
        """Answers a second that these costs leave room for on this machine."""
        return len(ALL_CPUS) * 1e6 / (self.cost + self.load_cost)


async def measure(
    counts: list[int], rounds: int, seconds: float, *, stream: bool
) -> dict[int, list[Round]]:
    """Each server's rounds, in turn; the first warms up."""
    found: dict[int, list[Round]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            engine = run(*_ENGINE, cpus=ALL_CPUS, says="http://")
            engine_pid, url = await stack.enter_async_context(engine)
            targets = {}
            for count in counts:
                folder = Path(name) / str(count)
                folder.mkdir()
                keys = make(folder / "store.db", CLIENTS)
                targets[count] = await stack.enter_async_context(
                    reverie(
                        config(url, f"sqlite:///{folder}/store.db"),
                        folder,
                        callers=keys,
                        cpus=ALL_CPUS,
                        REVERIE_WORKERS=str(count),
                    )
                )
            for number in range(rounds + 1):
                for count in counts if number % 2 else reversed(counts):
                    target = targets[count]
                    requests = target.requests(chat(stream=stream, tokens=TOKENS))
                    before = time.process_time() + cpu_seconds(engine_pid)
                    began = time.perf_counter()
                    done = await saturate(target.url, target.pid, requests, seconds)
                    spent = time.process_time() + cpu_seconds(engine_pid) - before
                    took = time.perf_counter() - began
                    if number:
                        load = 1e6 * spent / took / done.rate
                        found[count].append(Round(done.rate, done.busy, done.cost, load))
    return found


def show(what: str, found: dict[int, list[Round]]) -> None:
    table = Table(title=f"{what}, {CLIENTS} connections, {len(ALL_CPUS)} cores")
    heads = ("workers", "answers/s", "ratio", "cores", "µs at the server", "at the load", "bound/s")
    for head in heads:
        table.add_column(head, justify="right")
    base = statistics.median(one.rate for one in next(iter(found.values())))
    for count, all_rounds in found.items():
        medians = [statistics.median(values) for values in zip(*all_rounds, strict=True)]
        rate, busy, cost, load = medians
        bound = statistics.median(one.bound for one in all_rounds)
        table.add_row(
            str(count), f"{rate:,.0f}", f"{rate / base:.2f}", f"{busy:.2f}", f"{cost:,.0f}",
            f"{load:,.0f}", f"{bound:,.0f}",
        )  # fmt: skip
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    for what, stream in (("JSON answers", False), (f"{TOKENS}-chunk streams", True)):
        found = uvloop.run(measure(given.workers, given.rounds, given.seconds, stream=stream))
        show(what, found)


if __name__ == "__main__":
    main()
