"""What goes wrong during a soak, one thing after the other, and what clients may notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from reverie.times import format_moment, now_ms
from soaking.site import Gateway, Site

_PATIENCE = 90.0
_GRACE = 1.0
"""Seconds after a fault in which a client may still be told of it."""
_STORM = 6
"""Requests of each kind that an engine fails before it is well again."""
ENGINE = frozenset({"502", "504", "broken"})
"""What those see of an engine's fault whose answers can't be continued elsewhere."""
NOTHING: frozenset[str] = frozenset()
STORE = frozenset({"503"})
GONE = frozenset({"cut", "unreached", "503", "broken"})


@dataclass(slots=True)
class Window:
    """A time in which something is wrong."""

    name: str
    noticed: frozenset[str]
    gateway: str | None
    """Where; None: at every gateway."""
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None


class FaultLog:
    """What went wrong, and when.

    Args:
        file: gets a line for each, in the time of the gateways' logs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        """What didn't recover."""
        self._windows: list[Window] = []

    @asynccontextmanager
    async def window(
        self, name: str, noticed: frozenset[str] = NOTHING, gateway: Gateway | None = None
    ) -> AsyncIterator[None]:
        """Something is wrong as long as this block runs."""
        where = None if gateway is None else gateway.name
        window = Window(name, noticed, where)
        self.counts[name] += 1
        self._windows = [*self._windows[-20:], window]
        began = format_moment(now_ms())
        try:
            yield
        finally:
            window.ended = time.monotonic()
            with self._file.open("a") as lines:
                lines.write(f"{began} to {format_moment(now_ms())} {name} {where or ''}\n")

    def explains(self, what: str, began: float, gateway: str, *, continuable: bool) -> bool:
        """Whether a fault since a moment accounts for what a client saw.

        Args:
            continuable: its answer can be continued by another engine, so that an engine's fault
                is no excuse.
        """
        for window in self._windows:
            if window.gateway not in (None, gateway) or what not in window.noticed:
                continue
            if continuable and window.noticed is ENGINE:
                continue
            if window.ended is None or window.ended + _GRACE >= began:
                return True
        return False


class Faults:
    """Has one thing after the other go wrong, in an order that a seed decides.

    Args:
        every: seconds from one fault's beginning to the next one's, at least.
    """

    def __init__(self, site: Site, log: FaultLog, every: float, seed: int) -> None:
        self._site = site
        self._log = log
        self._every = every
        self._random = random.Random(seed)
        self._extra = False
        self._stopping = asyncio.Event()
        self.harsh = True
        """Whether gateways and workers die, too, after which their memory begins anew."""

    async def run(self) -> None:
        """Until it is stopped, and what was wrong then is well again."""
        mild: list[Callable[[], Awaitable[None]]] = [
            self._engine_killed,
            self._engine_restarted,
            self._engine_stalls,
            self._engine_fails,
            self._engine_sends_html,
            self._engine_breaks_off,
            self._engine_errs_in_stream,
            self._reload_by_signal,
            self._backend_drained,
            self._store_stopped,
            self._reload_by_api,
            self._store_hangs,
        ]
        pause = self._every / 2
        harsh = [
            self._gateway_killed,
            self._worker_killed,
            self._gateway_restarted,
        ]
        for number in itertools.count():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                    return
            if number % len(mild) == 0:
                self._random.shuffle(mild)
            fault = mild[number % len(mild)]
            if self.harsh and number % 3 == 1:
                fault = harsh[number // 3 % len(harsh)]
            next_at = time.monotonic() + self._every
            await fault()
            pause = max(0.0, next_at - time.monotonic())

    def stop(self) -> None:
        """Let nothing else go wrong."""
        self._stopping.set()

    async def _until(self, condition: Callable[[], Awaitable[Any]], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                if await condition():
                    return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(0.1)
        self._log.problems.append(f"{_PATIENCE:.0f} s after {what}, it isn't as before")

    # Engines ----------------------------------------------------------------------------------

    async def _engine_killed(self) -> None:
        engine = self._random.choice(self._site.engines)
        async with self._log.window("engine killed", ENGINE):
            await engine.process.kill()
            await asyncio.sleep(self._random.uniform(0.1, 3))
            await engine.process.start()
            await self._until(self._site.all_backends_ready, f"{engine.name} was killed")

    async def _engine_restarted(self) -> None:
        engine = self._random.choice(self._site.engines)
        async with self._log.window("engine restarted", ENGINE):
            await engine.process.end()
            await engine.process.start()
            await self._until(self._site.all_backends_ready, f"{engine.name} was restarted")

    async def _engine_stalls(self) -> None:
        await self._storm("engine stalls", stall_after=self._random.choice((0, 1, 5)))

    async def _engine_fails(self) -> None:
        await self._storm("engine answers 500", status=self._random.choice((500, 503)))

    async def _engine_sends_html(self) -> None:
        await self._storm("engine sends HTML", html=True, status=self._random.choice((200, 502)))

    async def _engine_breaks_off(self) -> None:
        how = self._random.choice(("reset", "close", "end"))
        after = self._random.choice((0, 1, 4))
        await self._storm("engine breaks off", die_after=after, die_how=how)

    async def _engine_errs_in_stream(self) -> None:
        error = {"message": "An engine's own words."}
        await self._storm("engine errs in its stream", error_in_stream=error, error_after=2)

    async def _storm(self, name: str, **fields: Any) -> None:
        engine = self._random.choice(self._site.engines)
        async with self._log.window(name, ENGINE):
            engine.fail(_STORM, **fields)
            await asyncio.sleep(2)
            engine.be_well()
            await self._until(self._site.all_backends_ready, f"{engine.name}: {name}")

    # The operator -----------------------------------------------------------------------------

    def _configure(self) -> None:
        self._extra = not self._extra
        for gateway in self._site.gateways:
            gateway.configure(self._site.engines, extra=self._extra)

    async def _reload_by_signal(self) -> None:
        async with self._log.window("reload by signal"):
            self._configure()
            for gateway in self._site.gateways:
                gateway.process.send(signal.SIGHUP)
            await self._until(self._reloaded, "a reload by signal")

    async def _reloaded(self) -> bool:
        for gateway in self._site.gateways:
            models = {one["name"] for one in (await self._site.admin(gateway, "models"))["data"]}
            if ("extra" in models) != self._extra:
                return False
        return await self._site.all_backends_ready()

    async def _reload_by_api(self) -> None:
        async with self._log.window("reload by the admin API"):
            self._configure()
            for gateway in self._site.gateways:
                await self._site.post(gateway, "reload")
            await self._until(self._reloaded, "a reload by the admin API")

    async def _backend_drained(self) -> None:
        gateway = self._random.choice(self._site.gateways)
        async with self._log.window("backend drained"):
            backends = (await self._site.admin(gateway, "backends"))["data"]
            one = self._random.choice([one for one in backends if one["name"] != "embedded"])
            name = {"model": one["model"], "backend": one["name"]}
            await self._site.post(gateway, "backends/drain", **name)
            await asyncio.sleep(2)
            await self._site.post(gateway, "backends/resume", **name)
            await self._until(self._site.all_backends_ready, f"{name} was drained")

    # The store --------------------------------------------------------------------------------

    async def _store_stopped(self) -> None:
        async with self._log.window("store stopped", STORE):
            await asyncio.to_thread(self._site.postgres.stop)
            await asyncio.sleep(self._random.uniform(0.5, 4))
            await asyncio.to_thread(self._site.postgres.start)
            await self._until(self._all_answer, "the store was stopped")

    async def _store_hangs(self) -> None:
        async with self._log.window("store hangs", STORE):
            await asyncio.to_thread(self._site.postgres.pause)
            await asyncio.sleep(self._random.uniform(0.5, 4))
            await asyncio.to_thread(self._site.postgres.resume)
            await self._until(self._all_answer, "the store hung")

    async def _all_answer(self) -> bool:
        return all([await self._site.answers(gateway) for gateway in self._site.gateways])

    # Gateways ---------------------------------------------------------------------------------

    async def _gateway_killed(self) -> None:
        gateway = self._random.choice(self._site.gateways)
        async with self._log.window("gateway killed", GONE, gateway):
            await gateway.process.kill()
            await gateway.process.start()
            await self._until(self._site.all_backends_ready, f"gateway {gateway.name} was killed")

    async def _gateway_restarted(self) -> None:
        gateway = self._random.choice(self._site.gateways)
        async with self._log.window("gateway drained and restarted", GONE, gateway):
            if (status := await gateway.process.end()) != 0:
                self._log.problems.append(f"gateway {gateway.name} drained to status {status}")
            await gateway.process.start()
            await self._until(self._site.all_backends_ready, f"gateway {gateway.name}'s restart")

    async def _worker_killed(self) -> None:
        gateway = next(one for one in self._site.gateways if one.workers > 1)
        async with self._log.window("worker killed", GONE, gateway):
            os.kill(self._random.choice(gateway.pids[1:]), signal.SIGKILL)
            await self._until(self._all_answer, "a worker was killed")
            await self._until(self._site.all_backends_ready, "a worker was killed")
