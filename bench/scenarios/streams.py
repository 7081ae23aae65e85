"""(b) Streams of 64 chunks, as fast as they come, 32 clients without a pause."""

from __future__ import annotations

from lineup import Bench
from wire import chat

from .saturation import add, measure

CHUNKS = 64


async def run(bench: Bench) -> None:
    body = chat(stream=True, tokens=CHUNKS)
    loads = await measure(bench, await bench.gateways(), body, bench.size.seconds)
    add(bench.figures, "b", f"a stream of {CHUNKS} chunks, unpaced", loads)
