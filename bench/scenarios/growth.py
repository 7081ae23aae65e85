"""(f) What a request costs where there are many more keys, rows of the ledger, models or backends.

Each is asked for JSON answers in turn with a gateway that is new, has 32 keys, one model and one
backend.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from tempfile import mkdtemp

import servers
from cpus import resident_mib
from lineup import CLIENTS, Bench
from servers import Target
from stores import ask_usage, make
from wire import chat

from .saturation import measure

NEW = "a new gateway"
_ROWS_OF_A_KEY = 10
_TOKENS = 16


async def run(bench: Bench) -> None:
    await bench.dismiss()
    times = bench.size.growth
    keys, rows = CLIENTS * times, CLIENTS * times * _ROWS_OF_A_KEY
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(servers.engine())
        targets = [
            await stack.enter_async_context(_start(bench, engine.url, name, **more))
            for name, more in (
                (NEW, {}),
                (f"{keys:,} keys, {rows:,} rows", {"keys": keys, "rows": rows}),
                (f"{times:,} models", {"models": times}),
                (f"{times:,} backends of a model", {"backends": times}),
            )
        ]
        body = chat(stream=False, tokens=_TOKENS)
        loads = await measure(bench, targets, body, bench.size.seconds)
        for name, each in loads.items():
            what = f"CPU of a JSON answer of {_TOKENS} tokens"
            bench.figures.add("f", what, "µs", name, [load.cost for load in each], base=NEW)
        for target in targets:
            memory = [resident_mib(target.pid)]
            bench.figures.add("f", "memory", "MiB", target.name, memory, base=NEW)
        large = _store(bench.folder / f"growth-{keys}")
    for question, milliseconds, _plan in ask_usage(large, 5):
        what = f"usage {question}"
        bench.figures.add("f", what, "ms", f"{keys:,} keys, {rows:,} rows", [milliseconds])


def _store(folder: Path) -> Path:
    return folder / "bench.db"


def _start(
    bench: Bench, engine_url: str, name: str, *, keys: int = 0, rows: int = 0, models: int = 1,
    backends: int = 1,
) -> AbstractAsyncContextManager[Target]:  # fmt: skip
    """A gateway with so much to look after."""
    bench.tell(f"f) {name}: made and started")
    folder = bench.folder / f"growth-{keys}" if keys else Path(mkdtemp(dir=bench.folder))
    folder.mkdir(exist_ok=True)
    callers = make(_store(folder), CLIENTS, all_keys=keys, rows=rows)
    config = servers.config(
        engine_url, f"sqlite:///{_store(folder)}", models=models, backends=backends
    )
    return servers.reverie(config, folder, name=name, callers=callers)
