"""What a scenario is given: how much to measure, where to put figures, and who takes part."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import installed
import servers
from figures import REVERIE, Figures
from servers import Target
from stores import make

CLIENTS = 32
OFF = f"{REVERIE}, no accounts"
"""Without keys and without a store."""

_FLOORS = (("a bare relay", "relay.py"), ("a bare pipe", "pipe.py"))
"""The least that servers in Python can be."""

T = TypeVar("T")
Start = Callable[[Path, str, Path], AbstractAsyncContextManager[Target]]


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    streams: Sequence[int]
    requests: int
    """Of the scenario on memory."""
    clients: Sequence[int]
    """Of the real model."""
    tokens: int
    """Of an answer of the real model."""
    growth: int
    """Times the keys, rows, models and backends."""
    limit: float
    """Seconds for one scenario. What hasn't been measured by then is listed as missing."""
    patience: float
    """Seconds in which a contestant must have done what it is asked, or is told to be too slow."""


QUICK = Size(
    rounds=2,
    seconds=0.6,
    streams=(1, 64),
    requests=2_000,
    clients=(1, 8),
    tokens=16,
    growth=100,
    limit=180.0,
    patience=20.0,
)
USUAL = Size(
    rounds=3,
    seconds=2.0,
    streams=(1, 64, 512, 2048),
    requests=20_000,
    clients=(1, 8, 32),
    tokens=64,
    growth=1000,
    limit=480.0,
    patience=60.0,
)
FULL = USUAL._replace(
    rounds=7, seconds=4.0, requests=100_000, tokens=128, limit=7_200.0, patience=600.0
)


@dataclass
class Bench:
    """One run."""

    size: Size
    folder: Path
    without: Collection[str] = ()
    """Names of those that don't take part."""
    figures: Figures = field(default_factory=Figures)
    versions: dict[str, str] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _programs: dict[str, tuple[Path, Start]] = field(default_factory=dict)
    _running: dict[str, AsyncExitStack] = field(default_factory=dict)
    _targets: list[Target] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Say what is measured now."""
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", flush=True)

    def install(self) -> None:
        """Install the others; those that can't be had are listed with their reason."""
        others: Sequence[tuple[str, Callable[[], installed.Program], Start]] = (
            ("nginx", installed.nginx, servers.nginx),
            ("vllm-router", installed.vllm_router, servers.vllm_router),
            ("LiteLLM", installed.litellm, servers.litellm),
        )
        for name, get, start in others:
            if name in self.without:
                continue
            try:
                program = get()
            except installed.Missing as reason:
                self.figures.missing[name] = f"can't be installed: {reason}"
            else:
                self.versions[name] = program.version
                self._programs[name] = program.path, start

    async def gateways(self) -> list[Target]:
        """The engine itself and all gateways in front of it, which run until ``dismiss``."""
        if not self._targets:
            engine = await self._start(_of_many(servers.engine()))
            for start in self.starts(engine.url):
                try:
                    await self._start(start)
                except NotStarted as error:
                    self.figures.missing[error.name] = f"didn't start: {error}"
        return self._targets

    async def dismiss(self) -> None:
        """Stop the gateways."""
        for name in reversed(list(self._running)):
            await self.stop(name)

    async def stop(self, name: str) -> None:
        """Stop one of them."""
        self._targets = [target for target in self._targets if target.name != name]
        await self._running.pop(name).aclose()

    async def _start(self, start: AbstractAsyncContextManager[Target]) -> Target:
        stack = AsyncExitStack()
        target = await stack.enter_async_context(start)
        self._running[target.name] = stack
        self._targets.append(target)
        return target

    def starts(self, engine_url: str) -> Iterator[AbstractAsyncContextManager[Target]]:
        """Each gateway, to be started in front of an engine."""
        yield self.reverie(engine_url, accounts=True)
        yield self.reverie(engine_url, accounts=False)
        for name, script in _FLOORS:
            if name not in self.without:
                yield _of_many(servers.floor(name, script, engine_url))
        for name, (program, start) in self._programs.items():
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            yield self._named(name, start(program, engine_url, folder))

    @contextlib.asynccontextmanager
    async def _named(
        self, name: str, start: AbstractAsyncContextManager[Target]
    ) -> AsyncIterator[Target]:
        """Say which one didn't start."""
        async with AsyncExitStack() as stack:
            try:
                target = await stack.enter_async_context(_of_many(start))
            except (RuntimeError, TimeoutError) as error:
                raise NotStarted(name, str(error) or "it took too long") from error
            yield target

    @contextlib.asynccontextmanager
    async def reverie(self, engine_url: str, *, accounts: bool) -> AsyncIterator[Target]:
        """Reverie with keys, limits that are looked at, and a ledger; or without any of them."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        callers: Sequence[str | None] = [None] * CLIENTS
        store = "none"
        if accounts:
            callers = make(folder / "bench.db", CLIENTS)
            store = f"sqlite:///{folder}/bench.db"
        config = servers.config(engine_url, store)
        name = REVERIE if accounts else OFF
        async with servers.reverie(config, folder, name=name, callers=callers) as target:
            yield target


class NotStarted(Exception):
    """A contestant is installed, but doesn't start."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@contextlib.asynccontextmanager
async def _of_many(start: AbstractAsyncContextManager[Target]) -> AsyncIterator[Target]:
    """One that knows a single caller, asked by as many as the others."""
    async with start as target:
        yield target._replace(secrets=list(target.secrets) * CLIENTS)


def in_turn(all_of_them: Sequence[T], round_number: int) -> Sequence[T]:
    """Forwards and backwards by turns, so that nobody always follows the same."""
    return all_of_them if round_number % 2 else list(reversed(all_of_them))
