"""(e) Memory: once started, after many requests, and while many streams are open.

Each gateway is started alone, anew. What several processes of one share counts once (PSS).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import servers
from cpus import resident_mib
from lineup import Bench, NotStarted
from load import Streams, answer
from servers import Target
from wire import chat

_OPENED_A_SECOND = 1000
_PAUSE_MS = 1_000


async def run(bench: Bench) -> None:
    await bench.dismiss()
    async with servers.engine() as engine:
        for start in bench.starts(engine.url):
            await _measure(bench, engine, start)


async def _measure(
    bench: Bench, engine: Target, start: AbstractAsyncContextManager[Target]
) -> None:
    name = ""
    try:
        async with start as target:
            name = target.name
            bench.tell(f"e) {name}")
            limit = bench.size.patience
            few, many = chat(stream=False, tokens=16), bench.size.requests
            await answer(target.url, target.pid, target.requests(few), 200, limit)
            before = resident_mib(target.pid)
            count = await answer(target.url, target.pid, target.requests(few), many, limit)
            after = resident_mib(target.pid)
            _add(bench, name, "memory after 200 requests", before)
            what = f"memory after {many:,} requests"
            _add(bench, name, what, after, "" if count >= many else f"{count:,} in {limit:.0f} s")
            held, opened = await _hold(target, engine, max(bench.size.streams), limit)
            what = f"memory with {max(bench.size.streams):,} open streams"
            note = "" if opened == max(bench.size.streams) else f"{opened:,} began in {limit:.0f} s"
            _add(bench, name, what, held, note)
    except NotStarted as error:
        bench.figures.missing[error.name] = str(error)
    except (RuntimeError, OSError) as error:
        bench.figures.missing[f"{name}, memory"] = str(error)


async def _hold(target: Target, engine: Target, count: int, limit: float) -> tuple[float, int]:
    """Memory while streams are open that bring a chunk each second, and how many are."""
    body = chat(stream=True, tokens=1_000_000, seed=_PAUSE_MS)
    streams = Streams(target.url, target.pid, engine.pid, _PAUSE_MS / 1e3)
    try:
        await streams.open(target.requests(body, count=count), count / _OPENED_A_SECOND)
        await streams.wait_begun(count, limit)
        return resident_mib(target.pid), streams.begun
    finally:
        await streams.close()


def _add(bench: Bench, name: str, what: str, mib: float, note: str = "") -> None:
    bench.figures.add("e", what, "MiB", name, [mib], note)
