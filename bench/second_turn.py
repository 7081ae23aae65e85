"""Measures what a coding agent's second turn waits for its first token, as a ratio to the first.

Each session has a long system prompt of its own, whose first block changes with each request, as
Claude Code's billing header does, and a few tools. With that block left out (as ``/v1/messages``
does) the engine finds the whole of the first turn in its cache; with a block of another name it
finds nothing. Prints both. Run it with ``make bench-second-turn``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table
from servers import default_reverie

TOOL = {
    "name": "bash",
    "description": "Runs a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
}
BILLING, OTHER = "x-anthropic-billing-header:", "x-some-other-header:"


async def first_token(
    session: aiohttp.ClientSession, url: str, system: list[Any], messages: list[Any]
) -> float:
    """Seconds to the first token of an answer."""
    began = time.perf_counter()
    seconds = 0.0
    body = {
        "model": "smollm2-135m",
        "system": system,
        "messages": messages,
        "tools": [TOOL],
        "max_tokens": 8,
        "stream": True,
    }
    async with session.post(f"{url}/v1/messages", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not seconds and b"content_block_delta" in line:
                seconds = time.perf_counter() - began
    return seconds


async def ratio(session: aiohttp.ClientSession, url: str, header: str, words: int) -> float:
    """The second turn's time to its first token ÷ the first's, of a session of its own."""
    chosen = random.Random()
    text = " ".join(chosen.choice(("rule", "file", "test", "code", "plan")) for _ in range(words))

    def system() -> list[dict[str, str]]:
        changing = f"{header} cc_version=2; cch={chosen.getrandbits(20):05x};"
        return [{"type": "text", "text": changing}, {"type": "text", "text": text}]

    messages: list[dict[str, str]] = [{"role": "user", "content": "Fix the failing test."}]
    first = await first_token(session, url, system(), messages)
    messages += [
        {"role": "assistant", "content": "Let me look."},
        {"role": "user", "content": "It still fails. Go on."},
    ]
    second = await first_token(session, url, system(), messages)
    return second / first


async def measure(rounds: int, words: int) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {BILLING: [], OTHER: []}
    async with default_reverie() as target, aiohttp.ClientSession() as session:
        for number in range(rounds + 1):
            for header in ratios:
                measured = await ratio(session, target.url, header, words)
                if number:  # the first round warms up
                    ratios[header].append(measured)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--words", type=int, default=2_500)
    given = parser.parse_args()
    table = Table("the system's first block", "second ÷ first, median", "least", "most")
    for header, each in asyncio.run(measure(given.rounds, given.words)).items():
        table.add_row(
            header, f"{statistics.median(each):.3f}", f"{min(each):.3f}", f"{max(each):.3f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
