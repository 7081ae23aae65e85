"""(d) The default model, end to end: Reverie's engine asked directly, and through the gateway.

Beside them is llama.cpp's own server, of the same library, with the defaults of llama-server. All
may use every CPU, as they do in earnest; those that aren't asked are idle.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cpus import ALL_CPUS, on_cpus
from lineup import Bench, Size, in_turn
from servers import Target, default_reverie, free_port, listening
from servers import run as run_command

from reverie.load.client import Client
from reverie.load.figures import percentile, report
from reverie.load.prompts import Question, bodies
from reverie.load.run import Load, Plan
from reverie.models.store import fetch
from reverie.runner.resources import usable_cores
from reverie.runner.supervisor import Runner
from reverie.settings import DEFAULT_MODEL, ModelSettings

EVERY = 8
"""One prompt of so many is long, where they are mixed."""
LONG = "The lighthouse keeper wrote down the wind, the tide and the ships that passed. " * 90
SHORT = "Write a short story about a lighthouse keeper who finds a letter in a bottle."
FIELDS = {"temperature": 0, "logit_bias": {"2": -100}}
"""No end of turn: every answer has max_tokens tokens."""


class Round(NamedTuple):
    """What clients saw."""

    tokens_per_second: float
    first: Sequence[float]
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
        bench.tell(f"d) {who}, round {number + 1}")
        for target in list(in_turn(targets, number)):
            try:
                measured = await _ask_together(bench.size, target, clients, mixed=mixed)
            except TimeoutError as error:
                bench.figures.missing[f"{target.name}, {who} and what follows"] = str(error)
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
    """Each client asks once.

    Raises:
        TimeoutError: one got no whole answer.
    """
    client = Client(target.url, headers={}, timeout=size.patience)
    questions = [
        question(LONG if mixed and number % EVERY == EVERY - 1 else "") for number in range(clients)
    ]
    fields = {"max_tokens": size.tokens, **FIELDS}
    plan = Plan(concurrency=clients, requests=clients)
    load = Load(client, plan, bodies(questions, fields, stream=True))
    await load.run()
    client.close()
    found = report(load)
    if found.failures:
        raise TimeoutError(", ".join(name for name, _ in found.failures))
    figures = found.figures
    return Round(
        found.tokens_per_second, figures["ttft_ms"].values, figures["inter_chunk_ms"].values[-1]
    )


def question(text: str) -> Question:
    marker = f"[{time.perf_counter_ns()}] "  # so that no prompt is in a cache
    prompt = marker + text + SHORT
    told = {"role": "system", "content": "You are a helpful assistant."}
    return Question([told, {"role": "user", "content": prompt}])


@asynccontextmanager
async def engine_alone(model: Path) -> AsyncIterator[Target]:
    """Reverie's engine with its settings, asked on its own socket."""
    # It counts cores in a thread, which may have the CPUs of an earlier scenario.
    settings = ModelSettings(name="m", source=DEFAULT_MODEL, threads=usable_cores())
    runner = Runner("bench", model, settings)
    await runner.start()
    try:
        await runner.wait_ready(60)
        assert runner.pid is not None
        url = f"http+unix://{quote(str(runner.socket), safe='')}"
        yield Target("its engine, directly", url, runner.pid, [None])
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
