"""A program that is called like a ``llama-server``, and answers by script.

The answer is the same for every prompt, and a text to continue is continued, so that one which is
taken over by another engine is whole only if nothing was lost or said twice.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reverie.testing.engine import ScriptedEngine
from reverie.testing.script import Script


def words_of(number: int) -> tuple[str, ...]:
    """The answer: so many words, each five characters and a token."""
    return tuple(f"{word:04d} " for word in range(number))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--alias", default="m")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--kv-unified-per-slot", type=int)
    parser.add_argument("--ctx-size", type=int, default=4096)
    given, _ = parser.parse_known_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # asyncio's end takes longer than it may
    asyncio.run(_serve(given))


async def _serve(given: argparse.Namespace) -> None:
    context = given.kv_unified_per_slot or given.ctx_size
    engine = ScriptedEngine(
        Script(tokens=words_of(given.words), delay=given.pace),
        host=given.host,
        port=given.port,
        socket=None if given.port else given.host,
        model=given.alias,
        key=given.api_key_file.read_text() if given.api_key_file else "",
        pages={
            "/props": {"default_generation_settings": {"n_ctx": context}},
            "/slots": [{"id": slot, "n_ctx": context} for slot in range(given.parallel)],
        },
        record=False,
    )
    engine.owned_by = "llamacpp"
    engine.count = _count
    async with engine:
        if given.load_seconds:
            engine.healthy = False
            await asyncio.sleep(given.load_seconds)
            engine.healthy = True
        await asyncio.Event().wait()


def _count(body: Any) -> int:
    return sum(len(str(message.get("content")).split()) for message in body.get("messages", ()))


if __name__ == "__main__":
    main(sys.argv[1:])
