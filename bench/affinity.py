"""Measures what prefix affinity spares: prompt tokens read from the engines' caches.

Chats of several turns are replayed, interleaved, over two engines: once through the gateway, which
sends a conversation where its beginning is warm, and once to the engines in turn (round robin).
Prints cached prompt tokens ÷ all prompt tokens of both. Run it with ``make bench-affinity``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table
from servers import default_reverie

from reverie.models.store import fetch
from reverie.runner.supervisor import Runner
from reverie.settings import DEFAULT_MODEL, ModelSettings

Ask = Callable[[list[dict[str, str]]], Any]
AT_ONCE = 4
TOPICS = ("tides", "bread", "trains", "bees", "glass", "chess", "rivers", "clocks", "salt", "kites")
FOLLOW_UPS = ("Why is that?", "Give an example.", "Say it shorter.", "And what came before?")


def opening(number: int) -> list[dict[str, str]]:
    topic = TOPICS[number % len(TOPICS)]
    return [
        {"role": "system", "content": "You are a helpful assistant who answers briefly."},
        {"role": "user", "content": f"Question {number}: tell me something about {topic}. " * 4},
    ]


async def replay(ask: Ask, chats: int, turns: int) -> tuple[int, int]:
    """Hold the chats; give cached prompt tokens and all of them."""
    histories = [opening(number) for number in range(chats)]
    at_once = asyncio.Semaphore(AT_ONCE)
    cached = total = 0

    async def turn(history: list[dict[str, str]], number: int) -> None:
        nonlocal cached, total
        async with at_once:
            answer = await ask(history)
        usage = answer["usage"]
        cached += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        total += usage["prompt_tokens"]
        history.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        history.append({"role": "user", "content": FOLLOW_UPS[number % len(FOLLOW_UPS)]})

    order = random.Random(7)
    for number in range(turns):
        order.shuffle(histories)  # an even number would meet the same engine each turn
        await asyncio.gather(*(turn(history, number) for history in histories))
    return cached, total


def asker(session: aiohttp.ClientSession, url: str) -> Ask:
    async def ask(messages: list[dict[str, str]]) -> Any:
        body = {"messages": messages, "max_tokens": 16, "temperature": 0}
        async with session.post(url, json=body) as response:
            response.raise_for_status()
            return await response.json()

    return ask


async def engines(stack: AsyncExitStack, model: Path) -> list[Runner]:
    settings = ModelSettings(name="m", source=DEFAULT_MODEL)
    runners = [Runner(f"bench-{number}", model, settings) for number in range(2)]
    for runner in runners:
        await runner.start()
        stack.push_async_callback(runner.stop)
    for runner in runners:
        await runner.wait_ready(60)
    return runners


async def through_the_gateway(model: Path, chats: int, turns: int) -> tuple[int, int]:
    async with AsyncExitStack() as stack:
        runners = await engines(stack, model)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "reverie.toml"
        lines = ["[store]", 'url = "none"', "[[models]]", 'name = "m"']
        for runner in runners:
            quoted = str(runner.socket).replace("/", "%2F")
            lines += [
                "[[models.backends]]",
                f'url = "http+unix://{quoted}/v1"',
                'kind = "llamacpp"',
                "slots = 8",
            ]
        config.write_text("\n".join(lines))
        target = await stack.enter_async_context(default_reverie("--config", str(config)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        return await replay(asker(session, f"{target.url}/llm"), chats, turns)


async def in_turn(model: Path, chats: int, turns: int) -> tuple[int, int]:
    async with AsyncExitStack() as stack:
        askers = []
        for runner in await engines(stack, model):
            connector = aiohttp.UnixConnector(str(runner.socket), force_close=True)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            askers.append(asker(session, "http://engine/v1/chat/completions"))
        order = itertools.cycle(askers)

        async def ask(messages: list[dict[str, str]]) -> Any:
            return await next(order)(messages)

        return await replay(ask, chats, turns)


async def main(chats: int, turns: int) -> None:
    model = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    table = Table("choice", "prompt tokens", "from cache", "share")
    for label, run in (("round robin", in_turn), ("affinity", through_the_gateway)):
        cached, total = await run(model, chats, turns)
        table.add_row(label, str(total), str(cached), f"{cached / total:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=50)
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    asyncio.run(main(given.chats, given.turns))
