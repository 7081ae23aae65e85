"""What is measured, a module for each: ``run(bench)`` adds its figures to the bench's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from lineup import Bench

from . import answers, dialects, growth, memory, paced, real, streams

SCENARIOS: dict[str, tuple[str, Callable[[Bench], Awaitable[None]]]] = {
    "a": ("JSON answers", answers.run),
    "b": ("streams as fast as they come", streams.run),
    "c": ("paced streams", paced.run),
    "d": ("the real model, end to end", real.run),
    "e": ("memory", memory.run),
    "f": ("growth", growth.run),
    "g": ("dialects", dialects.run),
}
