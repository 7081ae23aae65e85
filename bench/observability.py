"""Measures what metrics and traces cost a server: ``make bench-observability``.

Four servers are asked in turn, each on the CPUs that are the servers': one that counts nothing, one
as it is by default, one that traces every request to a collector that takes all at once, and one
that traces each tenth. A turn is some tenths of a second, since a machine's speed changes within
seconds: only what is measured at nearly the same time can be compared. CPU time is that of the
server's whole process tree from the start of one turn to the start of its next, so that what it
does later is counted, too. What a chunk costs is the difference between longer and shorter streams.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from cpus import cpu_seconds
from load import Clients
from rich.console import Console
from rich.table import Table
from servers import Target, config, engine, reverie
from stores import make
from wire import chat

CLIENTS = 32
ANSWERS = 256
"""In a turn."""
SHORT, LONG = 64, 512
_WARM = 3
"""Turns that aren't counted."""
_SLOW = 60.0
_BLIND = """\
from reverie.gateway.metrics import Metrics
from reverie.cli import main
for name in ("began", "observe", "observe_generation"):
    setattr(Metrics, name, lambda self, record: None)
main()
"""
"""A server that counts nothing."""
BASE = "metrics, as by default"
LOADS = {
    "a JSON answer": chat(stream=False, tokens=SHORT),
    f"a stream of {SHORT}": chat(stream=True, tokens=SHORT),
    f"a stream of {LONG}": chat(stream=True, tokens=LONG),
}
_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class Sink:
    """A collector that takes all at once, and reads none of it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.url = ""

    async def start(self, stack: AsyncExitStack) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        stack.callback(server.close)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.bytes += len(await reader.readexactly(length))
                writer.write(_TAKEN)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def _servers(stack: AsyncExitStack, folder: Path, sink: Sink) -> list[Target]:
    upstream = await stack.enter_async_context(engine())
    found: list[Target] = []
    for name, traces, program in (
        ("nothing counted", "", (sys.executable, "-c", _BLIND)),
        (BASE, "", ()),
        ("and every request traced", f'[traces]\nendpoint = "{sink.url}"', ()),
        ("and every tenth traced", f'[traces]\nendpoint = "{sink.url}"\nsample = 0.1', ()),
    ):
        own = folder / str(len(found))
        own.mkdir()
        keys = make(own / "store.db", CLIENTS)
        written = f"{config(upstream.url, f'sqlite:///{own}/store.db')}\n{traces}"
        server = reverie(written, own, name=name, callers=keys, program=program)
        found.append(await stack.enter_async_context(server))
    return found


async def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds of CPU for an answer, by load and server, a value for each round."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            sink = Sink()
            await sink.start(stack)
            targets = await _servers(stack, Path(name), sink)
            for what, body in LOADS.items():
                costs = await _by_turns(targets, body, rounds)
                found[what] = {target.name: costs[target.pid] for target in targets}
            if not sink.bytes:
                raise RuntimeError("the collector got nothing")
    return found


async def _by_turns(
    targets: Sequence[Target], body: dict[str, Any], rounds: int
) -> dict[int, list[float]]:
    """Microseconds of CPU for an answer at each server, by its process."""
    clients = {target.pid: Clients(target.url, target.requests(body)) for target in targets}
    for one in clients.values():
        await one.open()
    costs: dict[int, list[float]] = {pid: [] for pid in clients}
    before: dict[int, float] = {}
    order = list(clients)
    for number in range(_WARM + rounds + 1):
        for pid in order:
            used = cpu_seconds(pid)
            if number > _WARM:
                costs[pid].append(1e6 * (used - before[pid]) / ANSWERS)
            before[pid] = used
            if number < _WARM + rounds:
                answered = await clients[pid].ask(ANSWERS, _SLOW)
                if answered < ANSWERS:
                    raise RuntimeError(f"{answered} of {ANSWERS} answers in {_SLOW:g} s")
    for one in clients.values():
        await one.close()
    return costs


def _per_chunk(found: dict[str, dict[str, list[float]]]) -> dict[str, list[float]]:
    _, short, long = found.values()
    return {
        name: [
            (more - less) / (LONG - SHORT)
            for less, more in zip(short[name], long[name], strict=True)
        ]
        for name in short
    }


def show(found: dict[str, dict[str, list[float]]]) -> None:
    table = Table(title=f"CPU at the server, µs; {CLIENTS} connections, keys and ledger on")
    for head in ("what", "server", "median", "middle half", "÷ metrics only"):
        table.add_column(head, justify="left" if head in ("what", "server") else "right")
    for what, servers in {**found, "a further chunk": _per_chunk(found)}.items():
        for name, values in servers.items():
            table.add_row(what, name, *_numbers(values, servers[BASE]))
            what = ""
    Console(width=110).print(table)


def _numbers(values: Sequence[float], base: Sequence[float]) -> tuple[str, str, str]:
    """A median, its spread, and the median of the rounds' ratios with its standard error."""
    ratios = [one / other for one, other in zip(values, base, strict=True)]
    low, _, high = statistics.quantiles(values, n=4)
    error = _median_error(ratios)
    ratio = f"{statistics.median(ratios):.3f} ± {error:.3f}" if error else "1"
    return f"{statistics.median(values):,.1f}", f"{low:,.1f} – {high:,.1f}", ratio


def _median_error(values: Sequence[float]) -> float:
    """The standard error of a median, from the middle half, which outliers don't move."""
    low, _, high = statistics.quantiles(values, n=4)
    return 1.2533 * (high - low) / 1.349 / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    show(uvloop.run(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
