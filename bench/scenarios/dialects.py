"""(g) What a chunk costs in each dialect, as a ratio to OpenAI's chat: long streams, unpaced."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import servers
from cpus import cpu_seconds
from lineup import Bench
from load import ask
from wire import CHAT

QUESTION = [{"role": "user", "content": "Hello"}]
_STREAMS, _TOKENS = 8, 1_000


def requests(tokens: int) -> dict[str, dict[str, Any]]:
    """A body for each route."""
    return {
        CHAT: {"messages": QUESTION, "max_tokens": tokens},
        "/llm": {"messages": QUESTION, "max_tokens": tokens},
        "/v1/completions": {"prompt": "Hello", "max_tokens": tokens},
        "/v1/messages": {"messages": QUESTION, "max_tokens": tokens},
        "/v1/responses": {"input": "Hello", "max_output_tokens": tokens},
        "/api/chat": {"messages": QUESTION, "options": {"num_predict": tokens}},
        "/api/generate": {"prompt": "Hello", "options": {"num_predict": tokens}},
    }


async def run(bench: Bench) -> None:
    await bench.dismiss()
    costs: dict[str, list[float]] = defaultdict(list)
    async with servers.engine() as engine, bench.reverie(engine.url, accounts=True) as target:
        for number in range(bench.size.rounds + 1):
            bench.tell(f"g) round {number} of {bench.size.rounds}" if number else "g) warming up")
            for route, body in requests(_TOKENS).items():
                asked = target.requests({"model": "m", "stream": True, **body}, path=route)
                before = cpu_seconds(target.pid)
                await asyncio.gather(*(ask(target.url, one) for one in asked[:_STREAMS]))
                spent = cpu_seconds(target.pid) - before
                if number:  # the first round warms up
                    costs[route].append(spent / _STREAMS / _TOKENS * 1e6)
    for route, each in costs.items():
        bench.figures.add("g", "CPU of a chunk, unpaced", "µs", route, each, base=CHAT)
