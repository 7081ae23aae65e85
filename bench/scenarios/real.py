"""(d) The default model, end to end: Reverie's engine asked directly, and through the gateway.

Beside them is llama.cpp's own server, of the same library, with the defaults of llama-server. All
may use every CPU, as they do in earnest; those that aren't asked are idle.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cpus import ALL_CPUS, on_cpus
from figures import percentile
from lineup import Bench, Size, in_turn
from load import UNIX, Answer, ask
from servers import Target, default_reverie, free_port, listening
from servers import run as run_command
from wire import request

from reverie.models.store import fetch
from reverie.runner.supervisor import Runner
from reverie.settings import DEFAULT_MODEL, ModelSettings

EVERY = 8
"""One prompt of so many is long, where they are mixed."""
LONG = "The lighthouse keeper wrote down the wind, the tide and the ships that passed. " * 90
SHORT = "Write a short story about a lighthouse keeper who finds a letter in a bottle."
_USED = re.compile(rb'"completion_tokens": ?(\d+)')


class Round(NamedTuple):
    """What clients saw."""

    tokens_per_second: float
    first: list[float]
    """Milliseconds to the first token of each answer."""
    worst_gap: float
    """Milliseconds between two tokens of an answer, the longest of all."""


async def run(bench: Bench) -> None:
    await bench.dismiss()
    model = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    with on_cpus(ALL_CPUS):
        async with AsyncExitStack() as stack:
            targets = [
                await stack.enter_async_context(default_reverie()),
                await stack.enter_async_context(engine_alone(model)),
                await stack.enter_async_context(llama_server(model)),
            ]
            for target in targets:
                await _ask_together(bench.size, target, 4, mixed=False)  # warm them up
            for clients in bench.size.clients:
                for mixed in (False, True) if clients > 1 else (False,):
                    await _measure(bench, targets, clients, mixed=mixed)


async def _measure(bench: Bench, targets: list[Target], clients: int, *, mixed: bool) -> None:
    rounds: dict[str, list[Round]] = defaultdict(list)
    who = f"{clients} client{'s' * (clients > 1)}, {'mixed' if mixed else 'short'} prompts"
    for number in range(max(1, bench.size.rounds - 1)):
        for target in list(in_turn(targets, number)):
            try:
                measured = await _ask_together(bench.size, target, clients, mixed=mixed)
            except TimeoutError:
                slow = f"an answer took more than {bench.size.patience:.0f} s"
                bench.figures.missing[f"{target.name}, {who} and what follows"] = slow
                targets.remove(target)
            else:
                rounds[target.name].append(measured)
    for target in targets:
        each = rounds[target.name]

        def add(what: str, unit: str, values: list[float], name: str = target.name) -> None:
            bench.figures.add("d", f"{what}, {who}", unit, name, values)

        add("tokens", "1/s", [one.tokens_per_second for one in each])
        for percent in (50, 95):
            add(f"first token p{percent}", "ms", [percentile(one.first, percent) for one in each])
        add("worst gap", "ms", [one.worst_gap for one in each])


async def _ask_together(size: Size, target: Target, clients: int, *, mixed: bool) -> Round:
    """Each client asks once."""
    began = time.perf_counter()
    long = (mixed and number % EVERY == EVERY - 1 for number in range(clients))
    answers = await asyncio.gather(*(_client(size, target, is_long) for is_long in long))
    took = time.perf_counter() - began
    gaps = [
        after - before
        for answer in answers
        for before, after in zip(answer.moments, answer.moments[1:], strict=False)
    ]
    return Round(
        sum(tokens_of(answer) for answer in answers) / took,
        [answer.first * 1e3 for answer in answers],
        max(gaps) * 1e3,
    )


async def _client(size: Size, target: Target, is_long: bool) -> Answer:
    marker = f"[{time.perf_counter_ns()}] "  # so that no prompt is in a cache
    body = body_of(marker + (LONG if is_long else "") + SHORT, size.tokens)
    return await ask(target.url, request(body), b'"content":"', limit=size.patience)


def body_of(prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": prompt},
        ],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {"2": -100},  # no end of turn: every answer has max_tokens tokens
    }


def tokens_of(answer: Answer) -> int:
    """As the engine counted them."""
    used = _USED.findall(answer.body)
    if not used:
        raise RuntimeError(f"an answer without its usage: {answer.body[-300:]!r}")
    return int(used[-1])


@asynccontextmanager
async def engine_alone(model: Path) -> AsyncIterator[Target]:
    """Reverie's engine with its settings, asked on its own socket."""
    runner = Runner("bench", model, ModelSettings(name="m", source=DEFAULT_MODEL))
    await runner.start()
    try:
        await runner.wait_ready(60)
        assert runner.pid is not None
        yield Target("its engine, directly", f"{UNIX}{runner.socket}", runner.pid, [None])
    finally:
        await runner.stop()


@asynccontextmanager
async def llama_server(model: Path) -> AsyncIterator[Target]:
    port = free_port()
    script = Path(__file__).parent.parent / "llamacpp.py"
    command = (sys.executable, script, model, "--port", str(port))
    async with run_command(*command, cpus=ALL_CPUS, says="ready") as (pid, _):
        await listening(pid, port)
        yield Target("llama.cpp's server", f"http://127.0.0.1:{port}", pid, [None])
