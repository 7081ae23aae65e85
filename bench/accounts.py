"""Measures what keys and the ledger cost, and prints a table. Run it with ``make bench-accounts``.

Gateways with and without accounts are asked in turn in one run, on one core; an engine that costs
next to nothing and the load share another. Since machines are noisy, read the ratios. Throughput is
given by the clock, and by the CPU time that the gateway used, which its neighbours disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import uvloop
from load import Load, pace, saturate
from rich.console import Console
from rich.table import Table
from servers import LOAD_CORE, Target, engine, install_litellm, litellm, on_core, reverie
from stores import ask_usage, make

CLIENTS = 32
SHORT, LONG = 16, 64
"""Tokens of an answer that isn't streamed, and of one that is."""


class Size(NamedTuple):
    """How much is measured, and over how large a store."""

    rounds: int
    seconds: float
    keys: int
    rows: int


QUICK = Size(rounds=2, seconds=1.0, keys=10_000, rows=100_000)
FULL = Size(rounds=9, seconds=2.0, keys=1_000_000, rows=10_000_000)


async def throughput(targets: Sequence[Target], size: Size, *, stream: bool) -> list[list[Load]]:
    """Saturate each target in turn; give each one's rounds."""
    loads: list[list[Load]] = [[] for _ in targets]
    asked = [target.requests(stream=stream, tokens=LONG if stream else SHORT) for target in targets]
    for number in range(size.rounds):
        order = list(range(len(targets)))
        for index in order if number % 2 else reversed(order):
            target = targets[index]
            loads[index].append(await saturate(target.url, target.pid, asked[index], size.seconds))
    return loads


async def first_token(
    targets: Sequence[Target], size: Size, clients: int, rate: float
) -> list[list[list[float]]]:
    """Ask each target in turn at a pace; give each one's rounds, in milliseconds."""
    waits: list[list[list[float]]] = [[] for _ in targets]
    for number in range(size.rounds):
        order = list(range(len(targets)))
        for index in order if number % 2 else reversed(order):
            target = targets[index]
            requests = target.requests(stream=True, tokens=SHORT)[:clients]
            seconds = await pace(target.url, requests, rate, size.seconds * 2)
            waits[index].append([wait * 1e3 for wait in seconds])
    return waits


def add_throughput(
    table: Table, what: str, base: Sequence[Load], of: Sequence[Load], aim: str
) -> None:
    """Two rows: by the clock and by CPU time."""
    by_clock = statistics.median(b.rate / a.rate for a, b in zip(base, of, strict=True))
    by_cpu = statistics.median(a.cost / b.cost for a, b in zip(base, of, strict=True))
    for unit, a, b, ratio in (
        ("/s", [load.rate for load in base], [load.rate for load in of], by_clock),
        (" per CPU second", [1e3 / x.cost for x in base], [1e3 / x.cost for x in of], by_cpu),
    ):
        table.add_row(
            f"{what}{unit}", f"{statistics.median(a):.0f}", f"{statistics.median(b):.0f}",
            f"× {ratio:.3g}", aim,
        )  # fmt: skip
    busy = [f"{100 * statistics.median(load.busy for load in some):.0f} %" for some in (base, of)]
    table.add_row("  the server's core is busy", *busy, "", "")


def add_first_token(
    table: Table, what: str, base: Sequence[list[float]], of: Sequence[list[float]], aim: str
) -> None:
    """A row for each percentile, of all rounds together. Neighbours disturb the tenth the least."""
    for name, percentile in (("p10", 10), ("p50", 50), ("p99", 99)):
        a, b = (
            statistics.quantiles([wait for some in waits for wait in some], n=100)[percentile - 1]
            for waits in (base, of)
        )
        table.add_row(
            f"first token, {what}, {name}", f"{a:.2f} ms", f"{b:.2f} ms", f"{b - a:+.2f} ms", aim
        )


async def main(size: Size, litellm_program: Path | None) -> None:
    table = Table("figure", "without", "with", "result", "aim")
    large = Table("figure", "new store", f"{size.rows:,} rows", "result", "aim")
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, on_core(LOAD_CORE):
        folder = Path(name)
        secrets = make(folder / "small.db", CLIENTS)
        print(f"cores {cpus}; making a store of {size.keys:,} keys and {size.rows:,} rows")
        many = make(folder / "large.db", CLIENTS, all_keys=size.keys, rows=size.rows)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(engine())

            async def start(label: str, store: str, keys: Sequence[str | None]) -> Target:
                running = reverie(url, folder / label, store, keys)
                return await stack.enter_async_context(running)

            off = await start("off", "none", [None] * CLIENTS)
            on = await start("on", f"sqlite:///{folder}/small.db", secrets)
            old = await start("old", f"sqlite:///{folder}/large.db", many)
            targets = (off, on, old)
            await throughput(targets, Size(1, 1.0, 0, 0), stream=True)  # warm them up
            paced = 0.0
            for what, stream in (("answers", False), (f"{LONG}-chunk streams", True)):
                without, with_, over_old = await throughput(targets, size, stream=stream)
                add_throughput(table, what, without, with_, "≥ 0.6")
                add_throughput(large, what, with_, over_old, "≥ 0.9")
                paced = paced or 0.1 * statistics.median(load.rate for load in with_)
            for clients, rate in ((1, 50.0), (CLIENTS, paced)):
                waits = await first_token(targets, size, clients, rate)
                what = f"{clients} client{'s' * (clients > 1)} at {rate:.0f}/s"
                add_first_token(table, what, waits[0], waits[1], "")
                add_first_token(large, what, waits[1], waits[2], "≤ 10 %")
        for question, milliseconds, plan in ask_usage(folder / "large.db", 5):
            large.add_row(f"usage {question}", "", f"{milliseconds:.1f} ms", plan, "< 100 ms")
        for each in (table, large):
            Console(width=140).print(each)
        if litellm_program is None:
            print("installing LiteLLM")
            litellm_program = await install_litellm(folder / "venv")
        if litellm_program is None:
            print("LiteLLM can't be installed here: its rows are missing")
        else:
            await beside_litellm(litellm_program, folder, secrets, size)


async def beside_litellm(program: Path, folder: Path, secrets: Sequence[str], size: Size) -> None:
    """Ask LiteLLM's proxy and Reverie with accounts in turn."""
    table = Table("figure", "LiteLLM", "with accounts", "result", "aim")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(engine())
        theirs = await stack.enter_async_context(litellm(program, url, folder, CLIENTS))
        ours = await stack.enter_async_context(
            reverie(url, folder / "on", f"sqlite:///{folder}/small.db", secrets)
        )
        await throughput((theirs, ours), Size(1, 15.0, 0, 0), stream=True)
        for what, stream in (("answers", False), (f"{LONG}-chunk streams", True)):
            rounds = size._replace(rounds=min(3, size.rounds), seconds=15.0)
            a, b = await throughput((theirs, ours), rounds, stream=stream)
            add_throughput(table, what, a, b, "≥ 20")
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, a small store")
    parser.add_argument("--litellm", type=Path, help="the litellm program, if it is installed")
    given = parser.parse_args()
    uvloop.run(main(QUICK if given.quick else FULL, given.litellm))
