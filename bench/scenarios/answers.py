"""(a) Answers of 64 tokens in one piece of JSON, 32 clients without a pause."""

from __future__ import annotations

from lineup import Bench
from wire import chat

from .saturation import add, measure

TOKENS = 64


async def run(bench: Bench) -> None:
    body = chat(stream=False, tokens=TOKENS)
    loads = await measure(bench, await bench.gateways(), body, bench.size.seconds)
    add(bench.figures, "a", f"a JSON answer of {TOKENS} tokens", loads)
