"""Measures what a cluster's failures cost its clients, and what a cluster costs: prints two tables.

The failures are those of tests/cluster/test_streams.py, in a cluster of Ray whose machines share
this one. ``pause`` is the longest that any of some twenty clients waited for its next word, beside
a word each 40 ms, and ``back`` the time until all is as before. Only processes that die are like
those of real machines: one that is gone resets its connections at once here, and is silent there.

What it costs is measured with a scripted engine, which one gateway reaches as a part of the
cluster, and another as a backend that its configuration names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from cpus import own_mib
from rich.console import Console
from rich.table import Table

_ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT))  # the tests' cluster is the one that is measured

from reverie.cluster.child_link import ChildLink  # noqa: E402
from reverie.cluster.messages import Engine  # noqa: E402
from reverie.settings import ClusterSettings  # noqa: E402
from tests.cluster import streams  # noqa: E402
from tests.cluster.ray_cluster import Process, RayCluster  # noqa: E402

_KEY = "REVERIE_BENCH_ENGINE_KEY"
_CLIENTS = 6
_WORDS = 300
_FIRST_TOKENS = 60


class Cost(NamedTuple):
    """What answers through one gateway cost."""

    chunk: float
    """CPU time of the gateway for a chunk, in microseconds."""
    first_token: float
    """Median time to the first piece of text, in milliseconds."""


def failures(rounds: int) -> list[dict[str, Any]]:
    """What the tests noted, of each thing the values of all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures"
        for _ in range(rounds):
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "tests/cluster/test_streams.py"],
                cwd=_ROOT,
                env={**os.environ, streams.FIGURES: str(file)},
                check=True,
            )
        return [json.loads(line) for line in file.read_text().splitlines()]


def table_of(noted: list[dict[str, Any]]) -> Table:
    table = Table("what happens", "pause", "back after")
    for what in dict.fromkeys(str(one["what"]) for one in noted):
        rounds = [one for one in noted if one["what"] == what]
        cells = []
        for figure in ("gap", "back"):
            values = [one[figure] for one in rounds if figure in one]
            cells.append(f"{statistics.median(values):.2f} s" if values else "–")
        table.add_row(what, *cells)
    return table


async def costs(folder: Path) -> Table:
    """What chunks, first tokens and machines cost."""
    cluster = RayCluster(folder)
    with ExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.start(machines=1)
        model = streams.scripted_model(folder, "m", "1", slots=32, default=True, pace=0.005)
        member = stack.enter_context(
            streams.running_gateway(
                cluster, folder / "member", streams.configuration(cluster, model)
            )
        )
        await member.until(lambda: len(member.ready()) == 1)
        engine = await _engine(cluster)
        os.environ[_KEY] = engine.info.key
        static = stack.enter_context(
            streams.running_gateway(
                cluster,
                folder / "static",
                '[[models]]\nname = "m"\n[[models.backends]]\nkind = "llamacpp"\nslots = 32\n'
                f'url = "{engine.info.url}"\napi_key_env = "{_KEY}"\n',
            )
        )
        as_member, as_static = [], []
        for _ in range(3):  # in turn, since other work on this machine comes and goes
            as_member.append(await _cost(member))
            as_static.append(await _cost(static))
        table = Table("what it costs", "in the cluster", "a static backend", "ratio")
        for name, index, unit in (("CPU per chunk", 0, "µs"), ("first token", 1, "ms")):
            one, other = (
                statistics.median(cost[index] for cost in of) for of in (as_member, as_static)
            )
            table.add_row(name, f"{one:.1f} {unit}", f"{other:.1f} {unit}", f"{one / other:.2f}")
        for name, size in _memory(cluster, member).items():
            table.add_row(f"memory: {name}", f"{size:.0f} MiB", "", "")
        return table


async def _engine(cluster: RayCluster) -> Engine:
    """The one engine, with its key, as a gateway is told of it."""
    link = ChildLink(ClusterSettings(address=cluster.address), cluster.environ)
    changed = asyncio.Event()
    await link.start(changed.set)
    link.deploy([])
    try:
        async with asyncio.timeout(30):
            while link.view is None or not link.view.engines:
                await changed.wait()
                changed.clear()
        return link.view.engines[0]
    finally:
        await link.stop()


async def _cost(gateway: streams.Gateway) -> Cost:
    own = gateway.pid
    first_tokens = []
    async with aiohttp.ClientSession() as http:

        async def answer(words: int) -> float:
            body = {
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": words,
                "stream": True,
            }
            began, first = time.perf_counter(), 0.0
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as stream:
                async for line in stream.content:
                    if not first and b'"content":"0000 ' in line:
                        first = time.perf_counter() - began
            return first

        await answer(5)
        for _ in range(_FIRST_TOKENS):
            first_tokens.append(await answer(1))
        before = _cpu(own)
        await asyncio.gather(*(answer(_WORDS) for _ in range(_CLIENTS)))
        used = _cpu(own) - before
    return Cost(used / (_CLIENTS * _WORDS) * 1e6, statistics.median(first_tokens) * 1e3)


def _cpu(pid: int) -> float:
    """CPU time of one process without its children."""
    return time.clock_gettime(~pid << 3 | 2)


def _memory(cluster: RayCluster, gateway: streams.Gateway) -> dict[str, float]:
    """What each part takes, where pages that several processes share are divided among them."""
    head, machine = cluster.machines
    actors = machine.actors
    engines = machine.engines
    apart = {one.pid for one in (*actors, *engines)}
    (manager,) = cluster.find("ray::ManagerActor")
    return {
        "Ray on a machine, and `join`": _mib(
            one for one in machine.processes if one.pid not in apart
        ),
        "an engine's process, without llama.cpp": _mib(actors) / len(actors),
        "Ray on the head, and `head`": _mib(one for one in head.processes if one != manager),
        "the manager": _mib([manager]),
        "a gateway's child": own_mib(gateway.child),
    }


def _mib(processes: Iterable[Process]) -> float:
    return sum(own_mib(one.pid) for one in processes)


async def main(rounds: int) -> None:
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        console.print(await costs(Path(folder)))
    console.print(table_of(await asyncio.to_thread(failures, rounds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of the failures")
    asyncio.run(main(parser.parse_args().rounds))
