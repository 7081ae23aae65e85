"""Measures what long prompts do to others: the default model, eight clients without a pause.

Asked are llama.cpp's own server with llama-server's defaults, Reverie's engine on its own socket,
and the engine through the gateway: with short prompts, with one of some 1,500 tokens among eight,
and with one of 4,000 tokens that comes while seven answers run. Run it with
``make bench-long-prompts``; nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from figures import percentile
from load import Answer, ask
from rich.console import Console
from rich.table import Table
from scenarios.real import EVERY, LONG, SHORT, body_of, engine_alone, llama_server, tokens_of
from servers import Target, default_reverie
from wire import request

from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL

CLIENTS = 8
_VERY_LONG = LONG * 3
_PATIENCE = 110.0
_HEADS = ("tokens/s", "first p50", "first p95", "short p95", "worst gap")


class Seen(NamedTuple):
    """What clients saw; times in milliseconds."""

    tokens_per_second: float
    first: list[float]
    first_of_short: list[float]
    worst_gap: float

    @property
    def cells(self) -> tuple[str, ...]:
        values = (
            percentile(self.first, 50),
            percentile(self.first, 95),
            percentile(self.first_of_short, 95),
            self.worst_gap,
        )
        return (f"{self.tokens_per_second:.1f}", *(f"{value:,.0f}" for value in values))


async def answer(target: Target, text: str, tokens: int) -> Answer:
    marker = f"[{time.perf_counter_ns()}] "  # so that no prompt is in a cache
    body = request(body_of(marker + text + SHORT, tokens))
    return await ask(target.url, body, b'"content":"', limit=_PATIENCE)


async def in_turn(target: Target, requests: int, tokens: int, *, mixed: bool) -> Seen:
    """Eight clients, each of which asks again as soon as it is answered."""
    left: Iterator[int] = iter(range(requests))
    short: list[Answer] = []
    long: list[Answer] = []

    async def client() -> None:
        for number in left:
            is_long = mixed and number % EVERY == EVERY - 1
            one = await answer(target, LONG if is_long else "", tokens)
            (long if is_long else short).append(one)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return seen(short, long, time.perf_counter() - began)


async def beside_running(target: Target, tokens: int) -> Seen:
    """Seven answers, and a prompt of 4,000 tokens that comes once they run."""
    began = time.perf_counter()
    running = [asyncio.ensure_future(answer(target, "", 2 * tokens)) for _ in range(CLIENTS - 1)]
    await asyncio.sleep(2.0)
    long = await answer(target, _VERY_LONG, 8)
    return seen(await asyncio.gather(*running), [long], time.perf_counter() - began)


def seen(short: list[Answer], long: list[Answer], took: float) -> Seen:
    answers = [*short, *long]
    gaps = [after - before for one in answers for before, after in pairwise(one.moments)]
    return Seen(
        sum(map(tokens_of, answers)) / took,
        [one.first * 1e3 for one in answers],
        [one.first * 1e3 for one in short],
        max(gaps) * 1e3,
    )


def contestants(model: Path) -> dict[str, AbstractAsyncContextManager[Target]]:
    return {
        "stock": llama_server(model),
        "engine": engine_alone(model),
        "gateway": default_reverie(),
    }


async def measure(table: Table, given: argparse.Namespace) -> None:
    model = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    loads = {
        "short": lambda target: in_turn(target, given.requests, given.tokens, mixed=False),
        "mixed": lambda target: in_turn(target, given.requests, given.tokens, mixed=True),
        "arrival": lambda target: beside_running(target, given.tokens),
    }
    everyone = contestants(model)
    for name in given.who.split(","):
        async with everyone[name] as target:
            await answer(target, "", 8)  # warms it up
            for load in given.load.split(","):
                try:
                    row = (await loads[load](target)).cells
                except TimeoutError:
                    row = ("-",) * len(_HEADS)
                table.add_row(name, load, *row)
                sys.stderr.write(f"{name}, {load}: {', '.join(row)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--who", default="stock,engine,gateway")
    parser.add_argument("--load", default="short,mixed,arrival")
    table = Table("who", "load", *_HEADS)
    try:
        asyncio.run(measure(table, parser.parse_args()))
    finally:
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
