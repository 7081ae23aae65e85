"""Measures what a chunk costs the server in each dialect, as a ratio to OpenAI's chat.

Streams of many tokens, from an engine that costs next to nothing, are read in each dialect in turn,
over and over in one run; the server's CPU time (user and system) is divided by the chunks. Prints
the medians. Run it with ``make bench-dialects``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table
from servers import LOAD_CORE, engine, on_core, reverie

QUESTION = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def requests(tokens: int) -> dict[str, dict[str, Any]]:
    """A request for each route."""
    return {
        CHAT: {"messages": QUESTION, "max_tokens": tokens},
        "/llm": {"messages": QUESTION, "max_tokens": tokens},
        "/v1/completions": {"prompt": "Hello", "max_tokens": tokens},
        "/v1/messages": {"messages": QUESTION, "max_tokens": tokens},
        "/v1/responses": {"input": "Hello", "max_output_tokens": tokens},
        "/api/chat": {"messages": QUESTION, "options": {"num_predict": tokens}},
        "/api/generate": {"prompt": "Hello", "options": {"num_predict": tokens}},
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def read(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> int:
    """Read a stream to its end; give its bytes."""
    size = 0
    async with session.post(url, json={"model": "m", "stream": True, **body}) as response:
        response.raise_for_status()
        async for data in response.content.iter_any():
            size += len(data)
    return size


async def measure(rounds: int, streams: int, tokens: int) -> dict[str, list[float]]:
    """CPU microseconds a chunk, of each route in each round."""
    costs: dict[str, list[float]] = {route: [] for route in requests(tokens)}
    with tempfile.TemporaryDirectory() as folder, on_core(LOAD_CORE):
        async with (
            engine() as engine_url,
            reverie(engine_url, Path(folder) / "reverie", "none", [None]) as server,
            aiohttp.ClientSession() as session,
        ):
            for number in range(rounds + 1):
                for route, body in requests(tokens).items():
                    before = cpu_seconds(server.pid)
                    url = server.url + route
                    await asyncio.gather(*(read(session, url, body) for _ in range(streams)))
                    spent = cpu_seconds(server.pid) - before
                    if number:  # the first round warms up
                        costs[route].append(spent / streams / tokens * 1e6)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2_000)
    given = parser.parse_args()
    costs = asyncio.run(measure(given.rounds, given.streams, given.tokens))
    chat = costs[CHAT]
    table = Table("route", "µs a chunk, median", "÷ chat's, median", "least", "most")
    for route, each in costs.items():
        ratios = [one / base for one, base in zip(each, chat, strict=True)]
        table.add_row(
            route,
            f"{statistics.median(each):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
