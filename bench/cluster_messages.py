"""Measures what a cluster's messages weigh, and take to write and to read: no Ray, no network.

A view lists all engines, a report what runs on each. Run it with
``python bench/cluster_messages.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table

from reverie.cluster.messages import (
    Demand,
    Engine,
    EngineInfo,
    Machine,
    ModelStatus,
    Report,
    View,
    decode,
    encode,
)

_PER_MACHINE = 8
_MODELS = 4


def view(engines: int) -> View:
    return View(
        incarnation="0" * 32,
        version=1,
        complete=True,
        engines=[
            Engine(
                name=f"smollm2-135m/{number}",
                model="smollm2-135m",
                digest="0" * 16,
                machine=f"10.0.{number // 200}.{number % 200}",
                info=EngineInfo(
                    uid=f"{number:032x}",
                    revision=3,
                    state="ready",
                    url=f"http://10.0.{number // 200}.{number % 200}:41234/v1",
                    key="k" * 43,
                    slots=8,
                    context=8192,
                    kv_tokens=65536,
                    memory=1 << 33,
                    seconds_to_ready=12.5,
                ),
            )
            for number in range(engines)
        ],
        ended=[f"{number:032x}" for number in range(20)],
        models=[ModelStatus(f"model-{n}", "0" * 16, 1, 1000, 250) for n in range(_MODELS)],
        machines=[
            Machine(f"{number:056x}", f"10.0.0.{number}", True, memory=1 << 38)
            for number in range(max(1, engines // _PER_MACHINE))
        ],
    )


def report(engines: int) -> Report:
    return Report(
        gateway="0" * 16,
        demand={f"model-{number}": Demand(1000, 10) for number in range(_MODELS)},
        running={f"{number:032x}": 5 for number in range(engines)},
        incarnation="0" * 32,
        version=1,
    )


def milliseconds(what: Callable[[], object]) -> float:
    times = []
    for _ in range(30):
        began = time.thread_time()
        what()
        times.append(time.thread_time() - began)
    return 1e3 * sorted(times)[len(times) // 2]


def main() -> None:
    table = Table(box=box.MARKDOWN)
    for head in (
        "engines",
        "view, KiB",
        "written, ms",
        "read, ms",
        "report, KiB",
        "written",
        "read",
    ):
        table.add_column(head, justify="right")
    for engines in (10, 100, 1000):
        row = [f"{engines:,}"]
        for message in (view(engines), report(engines)):
            data = encode(message)
            row += [
                f"{len(data) / 1024:,.1f}",
                f"{milliseconds(lambda m=message: encode(m)):.3f}",  # type: ignore[misc]
                f"{milliseconds(lambda d=data, m=message: decode(d, type(m))):.3f}",  # type: ignore[misc]
            ]
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
