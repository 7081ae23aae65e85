"""Measures what the client towards engines costs, beside aiohttp's: ``make bench-client``.

An engine that costs next to nothing runs on another core. The clients ask it in turn, over and over
in one run, from this process, whose CPU time (user and system) is divided by the answers. Nothing
is decoded: what is measured is a request's way out and its bytes' way in. Read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import uvloop
from rich.console import Console
from rich.table import Table
from servers import LOAD_CORE, SERVER_CORE, engine, on_core

from reverie.backends.transport import Transport

TOKENS = 64
CLIENTS = 16
TIMEOUT = 60.0
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "bench",
}

Ask = Callable[[bytes], Awaitable[int]]
"""Sends a body, and gives the number of reads that its answer took."""


def question(*, stream: bool) -> bytes:
    """A request's body."""
    messages = [{"role": "user", "content": "Write a short story about a lighthouse."}]
    body = {"model": "m", "messages": messages, "max_tokens": TOKENS, "stream": stream}
    return json.dumps(body).encode()


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


async def cost(ask: Ask, body: bytes, answers: int) -> tuple[float, float]:
    """CPU microseconds and reads of one answer."""
    reads = 0

    async def client() -> None:
        nonlocal reads
        for _ in range(answers // CLIENTS):
            count = await ask(body)
            reads += count

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    answered = answers // CLIENTS * CLIENTS
    return (time.process_time() - began) / answered * 1e6, reads / answered


async def main(rounds: int, answers: int) -> None:
    table = Table("what", "aiohttp", "ours", "ours ÷ aiohttp", "least", "most", "reads")
    async with AsyncExitStack() as stack:
        with on_core(LOAD_CORE):
            url = await stack.enter_async_context(engine())
        stack.enter_context(on_core(SERVER_CORE))
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
        for what, stream in (("a JSON answer", False), (f"a {TOKENS}-chunk stream", True)):
            body = question(stream=stream)
            costs: list[list[float]] = [[], []]
            reads = [0.0, 0.0]
            for number in range(rounds + 1):
                order = (0, 1) if number % 2 else (1, 0)
                for index in order:
                    spent, reads[index] = await cost(clients[index], body, answers)
                    if number:  # the first round warms up
                        costs[index].append(spent)
            ratios = [ours / theirs for theirs, ours in zip(*costs, strict=True)]
            theirs, ours = (statistics.median(each) for each in costs)
            table.add_row(
                what,
                f"{theirs:.0f} µs",
                f"{ours:.0f} µs",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}",
                f"{max(ratios):.2f}",
                f"{reads[0]:.0f} and {reads[1]:.0f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answers", type=int, default=1_600, help="of each client in a round")
    given = parser.parse_args()
    uvloop.run(main(given.rounds, given.answers))
