"""Measures what the client towards engines costs, beside aiohttp's: ``make bench-client``.

An engine that costs next to nothing runs on another core. The clients ask it in turn, over and over
in one run, from this process, whose CPU time (user and system) is divided by the answers. Nothing
is decoded: what is measured is a request's way out and its bytes' way in. Read the ratios; where
chunks come as fast as they can, a quicker client reads more often, and fewer at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import aiohttp
import uvloop
from cpus import SERVER_CPUS, on_cpus
from rich.console import Console
from rich.table import Table
from servers import engine
from wire import chat

from reverie.backends.transport import Transport

TOKENS = 64
TIMEOUT = 60.0
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "bench",
}


class Scenario(NamedTuple):
    """What is asked, how often, on how many connections."""

    what: str
    stream: bool
    clients: int
    answers: int
    pause: int = 0
    """Milliseconds between two chunks."""


SCENARIOS = (
    Scenario("a JSON answer", stream=False, clients=16, answers=3_200),
    Scenario(f"a {TOKENS}-chunk stream, as fast as it comes", stream=True, clients=16, answers=960),
    Scenario(f"a {TOKENS}-chunk stream, 20 a second", True, clients=128, answers=128, pause=50),
)

Ask = Callable[[bytes], Awaitable[int]]
"""Sends a body, and gives the number of reads that its answer took."""


def with_aiohttp(session: aiohttp.ClientSession, url: str) -> Ask:
    """As little of it as can be: no deadline for a read."""
    address = f"{url}/chat/completions"

    async def ask(body: bytes) -> int:
        reads = 0
        async with asyncio.timeout(TIMEOUT), session.post(address, data=body) as response:
            while await response.content.readany():
                reads += 1
        return reads

    return ask


def with_transport(transport: Transport) -> Ask:
    """Reverie's own."""
    clock = asyncio.get_running_loop().time

    async def ask(body: bytes) -> int:
        reads = 0
        async with transport.post("chat/completions", body, clock() + TIMEOUT) as response:
            while await response.read(clock() + TIMEOUT):
                reads += 1
        return reads

    return ask


async def cost(ask: Ask, body: bytes, clients: int, answers: int) -> tuple[float, float]:
    """CPU microseconds and reads of one answer."""
    reads = 0

    async def client() -> None:
        nonlocal reads
        for _ in range(answers // clients):
            count = await ask(body)
            reads += count

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    answered = answers // clients * clients
    return (time.process_time() - began) / answered * 1e6, reads / answered


async def measure(
    url: str, scenario: Scenario, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Each client's costs in each round, and the reads of an answer of each."""
    pace: dict[str, Any] = {"seed": scenario.pause} if scenario.pause else {}
    body = json.dumps(chat(stream=scenario.stream, tokens=TOKENS, **pace)).encode()
    costs: tuple[list[float], list[float]] = ([], [])
    reads = [0.0, 0.0]
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers=HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        )
        transport = Transport(url, headers=HEADERS, connect_timeout=5.0, socket=None)
        stack.push_async_callback(transport.close)
        clients = (with_aiohttp(session, url), with_transport(transport))
        for number in range(rounds + 1):
            for index in (0, 1) if number % 2 else (1, 0):
                spent, reads[index] = await cost(
                    clients[index], body, scenario.clients, scenario.answers
                )
                if number:  # the first round warms up
                    costs[index].append(spent)
    return *costs, reads


async def main(rounds: int) -> None:
    table = Table("what", "aiohttp", "ours", "ours ÷ aiohttp", "least", "most", "reads")
    for scenario in SCENARIOS:
        async with AsyncExitStack() as stack:
            target = await stack.enter_async_context(engine())
            stack.enter_context(on_cpus(SERVER_CPUS))
            theirs, ours, reads = await measure(f"{target.url}/v1", scenario, rounds)
        ratios = [ours / theirs for theirs, ours in zip(theirs, ours, strict=True)]
        table.add_row(
            scenario.what,
            f"{statistics.median(theirs):.0f} µs",
            f"{statistics.median(ours):.0f} µs",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
            f"{reads[0]:.0f} and {reads[1]:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    uvloop.run(main(parser.parse_args().rounds))
