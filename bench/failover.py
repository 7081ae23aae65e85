"""Measures how long an answer pauses when its engine is killed, and prints a table.

Each round asks for a greedy stream of the default model, kills the engine with SIGKILL in the midst
of it, and takes the time from there to the next token at the client. ``text`` is how many of the
answers were, to the letter, those of engines that nobody kills.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import uvloop
from rich.console import Console
from rich.table import Table

from reverie.app import Application
from reverie.backends.embedded import EmbeddedBackend
from reverie.gateway.scheduling.pool import Pool
from reverie.models.store import fetch
from reverie.runner.supervisor import Runner
from reverie.server import Server, listen
from reverie.settings import DEFAULT_MODEL, ModelSettings, Settings

_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Write a Python function that adds two numbers."},
]
_TOKENS = 40
_KILL_AFTER = 15
_KILLS = 3
"""Kills per gateway. An engine that dies again and again is restarted later and later."""


class ModelRegistry(NamedTuple):
    """A running Reverie, and what runs its engines, by their backends' names."""

    url: str
    pool: Pool
    runners: dict[str, Runner]

    def serving(self) -> Runner:
        """The one that gives the answer which runs now."""
        return next(
            self.runners[backend.name]
            for backend in self.pool.backends
            if self.pool.in_flight_on(backend)
        )

    async def until_well(self) -> None:
        """Wait until each engine is back and trusted with requests."""
        for state in self.pool.states:
            while self.runners[state.name].state != "ready":
                await self.runners[state.name].changed()
            while state.down or state.circuit != "closed" or state.in_cooldown:
                await asyncio.sleep(0.1)
                self.pool.wake()


@asynccontextmanager
async def serve(model: dict[str, object]) -> AsyncIterator[tuple[str, Application]]:
    """Run Reverie in this process, without accounts."""
    settings = Settings.model_validate(
        {"server": {"port": 0}, "store": {"url": "none"}, "models": [{"name": "m", **model}]}
    )
    app = Application(settings, environ={})
    listener = listen(settings.server.host, settings.server.port)
    await app.start()
    server = Server(app, on_ready=lambda: None)
    running = asyncio.create_task(server.run_on(listener))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
    finally:
        server.stop()
        server.stop()
        await running
        listener.close()


@asynccontextmanager
async def two_engines(model: Path) -> AsyncIterator[ModelRegistry]:
    """One model on two engines of one thread each."""
    settings = ModelSettings(name="m", source="file", slots=1, threads=1, kv_tokens=2048)
    async with AsyncExitStack() as stack:
        runners = [Runner("m", model, settings) for _ in range(2)]
        backends = []
        for runner in runners:
            stack.push_async_callback(runner.stop)
            await runner.start()
            url = f"http+unix://{quote(str(runner.socket), safe='')}/v1"
            backends.append({"url": url, "kind": "llamacpp", "slots": 1})
        for runner in runners:
            while runner.state != "ready":
                await runner.changed()
        url, app = await stack.enter_async_context(serve({"backends": backends}))
        pool = app.models.find("m").pool
        names = [backend.name for backend in pool.backends]
        yield ModelRegistry(url, pool, dict(zip(names, runners, strict=True)))


@asynccontextmanager
async def one_engine(_model: Path) -> AsyncIterator[ModelRegistry]:
    """The embedded engine, which restarts."""
    async with serve({"source": DEFAULT_MODEL, "slots": 1}) as (url, app):
        pool = app.models.find("m").pool
        (backend,) = pool.backends
        assert isinstance(backend, EmbeddedBackend)
        assert isinstance(backend.runner, Runner)
        yield ModelRegistry(url, pool, {backend.name: backend.runner})


async def answer(registry: ModelRegistry, *, kill: bool) -> tuple[str, float]:
    """One answer's text, and the longest pause after its ``_KILL_AFTER``th token, in seconds."""
    body = {"messages": _MESSAGES, "temperature": 0, "max_tokens": _TOKENS, "stream": True}
    text, tokens, since, pause = "", 0, 0.0, 0.0
    async with (
        aiohttp.ClientSession() as http,
        http.post(registry.url + "/llm", json=body) as stream,
    ):
        async for line in stream.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(f"the answer was cut: {chunk['error']['message']}")
            text += chunk["choices"][0]["delta"]["content"]
            tokens += 1
            if since:
                pause = max(pause, time.perf_counter() - since)
                since = time.perf_counter() if not kill else 0.0
            if tokens == _KILL_AFTER:
                since = time.perf_counter()
                pid = registry.serving().pid
                if kill and pid is not None:
                    os.kill(pid, signal.SIGKILL)
    return text, pause


async def measure(
    start: Callable[[Path], AbstractAsyncContextManager[ModelRegistry]], model: Path, rounds: int
) -> tuple[list[float], float, int]:
    """Pauses in seconds, the longest pause of an answer that nobody disturbs, equal texts."""
    pauses: list[float] = []
    longest, equal = 0.0, 0
    while len(pauses) < rounds:
        async with start(model) as registry:
            await registry.until_well()
            undisturbed, pause = await answer(registry, kill=False)
            longest = max(longest, pause)
            for _ in range(min(_KILLS, rounds - len(pauses))):
                await registry.until_well()
                text, pause = await answer(registry, kill=True)
                pauses.append(pause)
                equal += text == undisturbed
    return pauses, longest, equal


async def main(rounds: int) -> None:
    model = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    table = Table("goes on", "median", "worst", "undisturbed", "text", "aim")
    logging.getLogger("reverie").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        for name, start, aim in (
            ("on a second backend", two_engines, "< 0.3 s"),
            ("on the engine, restarted", one_engine, "< 3 s"),
        ):
            pauses, longest, equal = await measure(start, model, rounds)
            median, worst = statistics.median(pauses), max(pauses)
            seconds = (f"{value:.2f} s" for value in (median, worst, longest))
            table.add_row(name, *seconds, f"{equal} of {rounds}", aim)
    Console(width=110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="answers a row")
    given = parser.parse_args()
    uvloop.run(main(given.rounds))
