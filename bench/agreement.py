"""Whether ``reverie bench`` and aiperf measure the same: ``make bench-agreement``.

Both ask the same server with the same prompts at the same concurrency, in turn, and the figures
that both define are divided. A server is started anew for each run, so that neither finds the
other's prompts in a cache. Tokens are those that the server counts, for both. The tools may use all
CPUs, since aiperf is many processes; the first requests, as many as are under way at a time, don't
count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cpus import SERVER_CPUS
from figures import Figures
from installed import Program, aiperf
from lineup import in_turn
from rich.console import Console
from servers import Target, default_reverie, engine, run

from reverie.load.prompts import synthetic

OURS, THEIRS = "reverie bench", "aiperf"
_LIMIT = 300.0
_PERCENTS = ("p50", "p90", "p99")
_BOTH = {
    "ttft_ms": "time_to_first_token",
    "itl_ms": "inter_token_latency",
    "request_latency_ms": "request_latency",
}
"""Figures with percentiles: our name → aiperf's."""
_RATES = {
    "requests_per_second": "request_throughput",
    "output_tokens_per_second": "output_token_throughput",
}
_TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
        "pre_tokenizer": {"type": "Whitespace"},
    },
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"},
}
"""aiperf doesn't start without one. Nothing is counted with it."""


class Question(NamedTuple):
    """A server, and what it is asked."""

    name: str
    start: Callable[[], AbstractAsyncContextManager[Target]]
    model: str
    concurrency: int
    requests: int
    prompt_tokens: int
    tokens: int
    fields: dict[str, int]


@asynccontextmanager
async def scripted() -> AsyncIterator[Target]:
    """An engine whose first token comes after 200 ms, and each other 20 ms after the one before."""
    command = (
        sys.executable, "-m", "reverie.testing", "--tokens", "60", "--first-delay", "0.2",
        "--delay", "0.02",
    )  # fmt: skip
    async with run(*command, cpus=SERVER_CPUS, says="http://") as (pid, url):
        yield Target("scripted", url.removesuffix("/v1"), pid, [None])


QUESTIONS = (
    Question("an engine of 200 ms, then 20 ms a token", scripted, "scripted", 8, 80, 32, 60, {}),
    Question("the paced engine, 20 ms a token", engine, "m", 16, 160, 32, 60, {"seed": 20}),
    Question(
        "the default model", default_reverie, "smollm2-135m", 4, 24, 64, 48, {"temperature": 0}
    ),
)


async def ours(asked: Question, url: str, prompts: Path, folder: Path) -> dict[str, float]:
    """Run ``reverie bench``."""
    report = folder / "ours.json"
    fields = [
        part for name, value in asked.fields.items() for part in ("--extra", f"{name}={value}")
    ]
    await _run(
        Path(sys.executable).with_name("reverie"), "bench", url, "--model", asked.model,
        "--concurrency", str(asked.concurrency), "--requests", str(asked.requests),
        "--prompts", str(prompts), "--output-tokens", str(asked.tokens),
        "--warmup", str(asked.concurrency), "--json", str(report), *fields,
    )  # fmt: skip
    found = json.loads(report.read_text())
    for warning in found["warnings"]:
        print(f"{OURS}: {warning}")
    values = {name: found[name] for name in _RATES}
    return values | {
        f"{name} {percent}": found["figures"][name][percent]
        for name in _BOTH
        for percent in _PERCENTS
    }


async def theirs(
    asked: Question, url: str, prompts: Path, folder: Path, program: Program
) -> dict[str, float]:
    """Run aiperf."""
    for name, content in _TOKENIZER.items():
        (folder / name).write_text(json.dumps(content))
    fields = [
        part
        for name, value in {"max_tokens": asked.tokens, **asked.fields}.items()
        for part in ("--extra-inputs", f"{name}:{value}")
    ]
    await _run(
        program.path, "profile", "--model", asked.model, "--url", url,
        "--endpoint-type", "chat", "--streaming", "--use-legacy-max-tokens",
        "--concurrency", str(asked.concurrency), "--request-count", str(asked.requests),
        "--warmup-request-count", str(asked.concurrency), "--use-server-token-count",
        "--input-file", str(prompts), "--custom-dataset-type", "single_turn",
        "--dataset-sampling-strategy", "sequential",
        "--tokenizer", str(folder), "--ui", "none", "--artifact-dir", str(folder / THEIRS),
        *fields,
    )  # fmt: skip
    found = json.loads((folder / THEIRS / "profile_export_aiperf.json").read_text())
    values = {name: found[theirs]["avg"] for name, theirs in _RATES.items()}
    return values | {
        f"{name} {percent}": found[theirs][percent]
        for name, theirs in _BOTH.items()
        for percent in _PERCENTS
    }


async def _run(*command: Any) -> None:
    """Run a load generator to its end.

    Raises:
        RuntimeError: it failed.
    """
    running = await asyncio.create_subprocess_exec(
        *map(str, command), env={**os.environ, "REVERIE_API_KEY": ""},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_LIMIT):
            said, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
    if running.returncode:
        raise RuntimeError(f"{command[0]} failed: {said.decode(errors='replace')[-1500:]}")


async def compare(asked: Question, program: Program, rounds: int, figures: Figures) -> None:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for name in in_turn((THEIRS, OURS), number):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                prompts = _prompts(folder / "prompts.jsonl", asked, number)
                async with asked.start() as target:
                    if name == OURS:
                        found = await ours(asked, target.url, prompts, folder)
                    else:
                        found = await theirs(asked, target.url, prompts, folder, program)
            for what, value in found.items():
                values[what][name].append(value)
        print(f"{asked.name}: round {number + 1} of {rounds}", flush=True)
    for what, each in values.items():
        unit = "1/s" if what in _RATES else "ms"
        label = what.replace("_ms", "").replace("_", " ").removesuffix(" per second")
        for name in (THEIRS, OURS):
            figures.add(asked.name, label, unit, name, each[name], base=THEIRS)


def _prompts(file: Path, asked: Question, seed: int) -> Path:
    count = asked.concurrency + asked.requests  # those of the warm-up are others
    questions = islice(synthetic(asked.prompt_tokens, seed), count)
    lines = [json.dumps({"text": one.messages[0]["content"]}) for one in questions]
    file.write_text("\n".join(lines))
    return file


async def main(chosen: Sequence[Question], rounds: int) -> Figures:
    program = aiperf()
    print(f"aiperf {program.version}")
    figures = Figures()
    for asked in chosen:
        await compare(asked, program, rounds, figures)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=int, help="the number of one comparison, from 0")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    given = parser.parse_args()
    chosen = QUESTIONS if given.only is None else QUESTIONS[given.only : given.only + 1]
    found = asyncio.run(main(chosen, given.rounds))
    Console(width=130).print(found.table())
    if given.markdown:
        given.markdown.write_text(found.markdown())
