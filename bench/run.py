"""Measures what Reverie adds to its engine, on the real default model, and prints a table.

Every figure is a ratio or a difference of two things measured in turn in one run, since machines
are noisy: the engine's own HTTP server asked directly, and the same engine asked through
``POST /llm``. Run it with ``make bench``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from rich.console import Console
from rich.table import Table

from reverie.models.store import fetch, find
from reverie.runner.supervisor import Runner
from reverie.settings import DEFAULT_MODEL, ModelSettings

PROMPT = "Write a short story about a lighthouse keeper who finds a letter in a bottle."
REVERIE = Path(sys.executable).with_name("reverie")


class Target(NamedTuple):
    """Something that answers: a URL and how to connect to it."""

    name: str
    url: str
    session: aiohttp.ClientSession


class Answer(NamedTuple):
    """One streamed answer: seconds to its first token, and its tokens."""

    first_token: float
    tokens: int


def body(max_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "logit_bias": {"2": -100},  # no end of turn: every answer has max_tokens tokens
        **more,
    }


async def ask(target: Target, max_tokens: int) -> Answer:
    """Stream one answer and time its first token."""
    began = time.perf_counter()
    first, tokens = 0.0, 0
    async with target.session.post(target.url, json=body(max_tokens)) as response:
        response.raise_for_status()
        async for line in response.content:
            if (
                line.startswith(b"data: {")
                and b'"content":"' in line
                and b'"content":""' not in line
            ):
                first = first or time.perf_counter() - began
                tokens += 1
    return Answer(first, tokens)


async def tokens_per_second(target: Target, clients: int, max_tokens: int) -> float:
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(target, max_tokens) for _ in range(clients)))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - began)


async def throughput(
    engine: Target, gateway: Target, clients: int, max_tokens: int, rounds: int
) -> tuple[float, float, float]:
    """Median tokens per second of both, and the median of the rounds' ratios."""
    direct: list[float] = []
    relayed: list[float] = []
    for number in range(rounds):
        pair = [(engine, direct), (gateway, relayed)]
        for target, results in pair if number % 2 else reversed(pair):
            results.append(await tokens_per_second(target, clients, max_tokens))
    ratios = [ours / theirs for ours, theirs in zip(relayed, direct, strict=True)]
    return statistics.median(direct), statistics.median(relayed), statistics.median(ratios)


async def first_token(engine: Target, gateway: Target, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds to the first token of both, and the median of the differences."""
    direct: list[float] = []
    relayed: list[float] = []
    for number in range(rounds):
        pair = [(engine, direct), (gateway, relayed)]
        for target, results in pair if number % 2 else reversed(pair):
            results.append((await ask(target, 1)).first_token * 1e3)
    added = [ours - theirs for ours, theirs in zip(relayed, direct, strict=True)]
    return statistics.median(direct), statistics.median(relayed), statistics.median(added)


@contextlib.asynccontextmanager
async def reverie(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run ``reverie serve`` on a free port; give the process and its base URL once it is ready."""
    state = tempfile.TemporaryDirectory()  # with the default store
    process = await asyncio.create_subprocess_exec(
        REVERIE, "serve", "--port", "0", *arguments, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "REVERIE_API_KEYS": "", "XDG_STATE_HOME": state.name},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while True:
            line = (await process.stdout.readline()).decode()
            if not line:
                raise RuntimeError("reverie serve ended before it was ready")
            if " at http://" in line:
                break
        yield process, line.rsplit(" at ", 1)[1].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
        state.cleanup()


async def start_to_first_token(rounds: int) -> float:
    """Median seconds from the command to the first token, the model being on disk."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        async with reverie() as (_, url), aiohttp.ClientSession() as session:
            await ask(Target("reverie", f"{url}/llm", session), 1)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def resident_mib(pid: int) -> float:
    """Memory that the process holds, without its children, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


async def main(quick: bool) -> None:
    rounds, max_tokens = (3, 48) if quick else (9, 128)
    model = find(DEFAULT_MODEL) or fetch(DEFAULT_MODEL)
    table = Table("figure", "engine alone", "through /llm", "result", "aim")
    settings = ModelSettings(name="m", source=DEFAULT_MODEL)
    runner = Runner("bench", model, settings)
    await runner.start()
    try:
        await runner.wait_ready(60)
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "reverie.toml")
            quoted = str(runner.socket).replace("/", "%2F")
            config.write_text(
                '[[models]]\nname = "m"\n[[models.backends]]\n'
                f'url = "http+unix://{quoted}/v1"\nkind = "llamacpp"\n'
            )
            async with (
                reverie("--config", str(config)) as (process, url),
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(runner.socket), force_close=True)
                ) as direct,
                aiohttp.ClientSession() as relayed,
            ):
                engine = Target("engine", "http://engine/v1/chat/completions", direct)
                gateway = Target("reverie", f"{url}/llm", relayed)
                await throughput(engine, gateway, 8, 8, 1)  # warm both up
                for clients in (1, 8):
                    a, b, ratio = await throughput(engine, gateway, clients, max_tokens, rounds)
                    table.add_row(
                        f"tokens/s, {clients} client{'s' * (clients > 1)}",
                        f"{a:.1f}", f"{b:.1f}", f"× {ratio:.3f}", "≥ 0.97",
                    )  # fmt: skip
                a, b, added = await first_token(engine, gateway, rounds * 10)
                table.add_row(
                    "time to first token, 1 client", f"{a:.2f} ms", f"{b:.2f} ms",
                    f"+ {added:.2f} ms", "< 2 ms",
                )  # fmt: skip
                table.add_row(
                    "resident memory after that", "", "", f"{resident_mib(process.pid):.0f} MiB",
                    "< 120 MB",
                )  # fmt: skip
    finally:
        await runner.stop()
    seconds = await start_to_first_token(3 if quick else 5)
    table.add_row("`reverie serve` to first token", "", "", f"{seconds:.2f} s", "< 3 s")
    Console(width=100).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    asyncio.run(main(parser.parse_args().quick))
