"""Each gateway in turn, asked without a pause: what (a) and (b) have in common."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from figures import Figures
from lineup import Bench, in_turn
from load import Load, saturate
from servers import Target


async def measure(
    bench: Bench, targets: Sequence[Target], body: dict[str, Any], seconds: float
) -> dict[str, list[Load]]:
    """Each one's rounds; one that fails is listed as not measured, with its reason."""
    loads: dict[str, list[Load]] = defaultdict(list)
    failed: set[str] = set()
    for number in range(bench.size.rounds + 1):
        bench.tell(f"round {number} of {bench.size.rounds}" if number else "warming up")
        for target in in_turn(targets, number):
            if target.name in failed:
                continue
            try:
                load = await saturate(target.url, target.pid, target.requests(body), seconds)
            except (RuntimeError, OSError, TimeoutError) as error:
                failed.add(target.name)
                bench.figures.missing[target.name] = f"{type(error).__name__}: {error}"
                continue
            if number:  # the first round warms up
                loads[target.name].append(load)
    return {target.name: loads[target.name] for target in targets if loads[target.name]}


def add(figures: Figures, scenario: str, what: str, loads: dict[str, list[Load]]) -> None:
    """CPU time and rate of each."""
    for name, rounds in loads.items():
        busy = statistics.median(load.busy for load in rounds)
        costs = [load.cost for load in rounds]
        figures.add(scenario, f"CPU of {what}", "µs", name, costs, f"its CPU is busy {busy:.0%}")
    for name, rounds in loads.items():
        figures.add(scenario, f"rate of {what}", "1/s", name, [load.rate for load in rounds])
