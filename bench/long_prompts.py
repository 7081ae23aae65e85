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
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from scenarios.real import EVERY, FIELDS, LONG, engine_alone, llama_server, question
from servers import Target, default_reverie

from reverie.load.answers import Outcome
from reverie.load.client import Client
from reverie.load.figures import percentile
from reverie.load.prompts import bodies
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


async def answer(client: Client, text: str, tokens: int) -> Outcome:
    asked = bodies([question(text)], {"max_tokens": tokens, **FIELDS}, stream=True)
    outcome = await client.ask(next(asked), stream=True)
    if outcome.failure is not None:
        raise TimeoutError(outcome.failure.name)
    return outcome


async def in_turn(client: Client, requests: int, tokens: int, *, mixed: bool) -> Seen:
    """Eight clients, each of which asks again as soon as it is answered."""
    left: Iterator[int] = iter(range(requests))
    short: list[Outcome] = []
    long: list[Outcome] = []

    async def ask_on() -> None:
        for number in left:
            is_long = mixed and number % EVERY == EVERY - 1
            one = await answer(client, LONG if is_long else "", tokens)
            (long if is_long else short).append(one)

    began = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
    return seen(short, long, time.perf_counter() - began)


async def beside_running(client: Client, tokens: int) -> Seen:
    """Seven answers, and a prompt of 4,000 tokens that comes once they run."""
    began = time.perf_counter()
    running = [asyncio.ensure_future(answer(client, "", 2 * tokens)) for _ in range(CLIENTS - 1)]
    await asyncio.sleep(2.0)
    long = await answer(client, _VERY_LONG, 8)
    return seen(await asyncio.gather(*running), [long], time.perf_counter() - began)


def seen(short: list[Outcome], long: list[Outcome], took: float) -> Seen:
    answers = [*short, *long]
    return Seen(
        sum(one.tokens for one in answers) / took,
        [one.ttft * 1e3 for one in answers],
        [one.ttft * 1e3 for one in short],
        max(max(one.gaps, default=0.0) for one in answers) * 1e3,
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
        "short": lambda client: in_turn(client, given.requests, given.tokens, mixed=False),
        "mixed": lambda client: in_turn(client, given.requests, given.tokens, mixed=True),
        "arrival": lambda client: beside_running(client, given.tokens),
    }
    everyone = contestants(model)
    for name in given.who.split(","):
        async with everyone[name] as target:
            client = Client(target.url, headers={}, timeout=_PATIENCE)
            await answer(client, "", 8)  # warms it up
            for load in given.load.split(","):
                try:
                    row = (await loads[load](client)).cells
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
