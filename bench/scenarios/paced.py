"""(c) Paced streams, held open: what a chunk costs, and how late it comes.

Up to 512 streams bring 20 chunks a second each; more bring fewer, so that all together bring no
more than those do: engine and load share a CPU, and would be what is measured.

The streams are begun, and watched while nothing else is asked; then short ones are asked for beside
them, for the time to the first token. Delays are from the engine's sending to the client's reading,
so they include engine and load, as those of the engine asked directly show.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from lineup import Bench, in_turn
from load import Streams, Window, ask
from servers import Target
from wire import chat

from reverie.load.figures import percentile

PAUSE_MS = 50
_CHUNKS_A_SECOND = 10_240
"""Of all streams together, at most: those of 512 with the shortest pause."""
TOKENS = 1_000_000
_OPENED_A_SECOND = 1000
_PROBES = 20
_BEGIN_SECONDS = 20.0
_KEPT_UP, _HOPELESS = 0.9, 0.5
"""Shares of the engine's pace: below the first no first token is waited for, since it would wait
behind the others' chunks, and below the second a gateway isn't given more."""


class _Level:
    """What one contestant did with so many streams."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.first: list[list[float]] = []

    @property
    def share(self) -> float:
        """Of the engine's pace, as it came."""
        expected = sum(window.expected for window in self.windows)
        return sum(window.chunks for window in self.windows) / max(1.0, expected)


async def run(bench: Bench) -> None:
    overloaded: dict[str, str] = {}
    for count in bench.size.streams:
        levels: dict[str, _Level] = defaultdict(_Level)
        targets = list(await bench.gateways())
        alone = _Level()
        engine = targets[0]
        bench.tell(f"c) {count:,} streams: engine and load alone")
        failure = await _watch(engine, engine.pid, count, bench.size.seconds, alone)
        if failure or alone.share < _KEPT_UP:
            bench.figures.missing[f"{count:,} paced streams and more"] = (
                f"engine and load alone come to {alone.share:.0%} of the pace here {failure}"
            )
            return
        for number in range(max(1, bench.size.rounds - 1)):
            for target in in_turn(targets, number):
                if target.name not in overloaded:
                    level = levels[target.name]
                    bench.tell(f"c) {count:,} streams, round {number + 1}: {target.name}")
                    failure = await _watch(target, engine.pid, count, bench.size.seconds, level)
                    if failure or level.share < _HOPELESS:
                        overloaded[target.name] = failure or f"{level.share:.0%} of the pace"
                        bench.figures.missing[f"{target.name}, {count:,} streams and more"] = (
                            f"overloaded: {overloaded[target.name]}"
                        )
                        if target is not engine:
                            await bench.stop(target.name)  # it would have work for long
        for name in (target.name for target in targets):
            if levels[name].windows:
                _add(bench, count, name, levels[name])


def pause_of(count: int) -> int:
    """Milliseconds between two chunks of each of so many streams."""
    return max(PAUSE_MS, count * 1000 // _CHUNKS_A_SECOND)


async def _watch(target: Target, engine_pid: int, count: int, seconds: float, level: _Level) -> str:
    """Measure one once.

    Returns:
        What went wrong; empty: nothing.
    """
    pause = pause_of(count)
    body = chat(stream=True, tokens=TOKENS, seed=pause)
    streams = Streams(target.url, target.pid, engine_pid, pause / 1e3)
    try:
        await streams.open(target.requests(body, count=count), count / _OPENED_A_SECOND)
        await streams.wait_begun(count, _BEGIN_SECONDS)
        await asyncio.sleep(0.5)
        level.windows.append(await streams.watch(seconds * 1.5))
        if level.windows[-1].share >= _KEPT_UP:
            level.first.append(await _first_tokens(target))
    except (RuntimeError, OSError) as error:
        return str(error).partition("\n")[0].strip() or type(error).__name__
    finally:
        await streams.close()
    return ""


async def _first_tokens(target: Target) -> list[float]:
    """Milliseconds to the first token of a few streams that are asked for one after another."""
    waits: list[float] = []
    question = target.requests(chat(stream=True, tokens=2, seed=PAUSE_MS), count=1)[0]
    for _ in range(_PROBES):
        waits.append(await ask(target.url, question, limit=10.0) * 1e3)
        await asyncio.sleep(0.013)  # so that they meet the others' chunks at other moments
    return waits


def _add(bench: Bench, count: int, name: str, level: _Level) -> None:
    with_ = f"{count:,} streams" if count > 1 else "1 stream"
    if pause_of(count) != PAUSE_MS:
        with_ += f" of {1000 / pause_of(count):g} chunks a second"
    windows = [window for window in level.windows if window.share >= _KEPT_UP]

    def add(what: str, unit: str, values: list[float]) -> None:
        bench.figures.add("c", f"{what}, {with_}", unit, name, values)

    add("chunks that came", "of the pace", [window.share for window in level.windows])
    add("CPU of engine and load", "of one", [window.beside for window in level.windows])
    # The others don't count: what comes in bulk is cheap, and late.
    costs = [window.cpu_seconds / window.chunks * 1e6 for window in windows]
    add("CPU of a chunk", "µs", costs)
    for percent in (50, 99):
        delays = [percentile(window.delays, percent) * 1e3 for window in windows]
        add(f"delay of a chunk p{percent}", "ms", delays)
    for percent in (50, 99):
        add(f"first token p{percent}", "ms", [percentile(waits, percent) for waits in level.first])
    add("streams without a stall", "of all", [1 - w.stalled / count for w in windows])
