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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from reverie.times import format_moment, now_ms
from soaking.site import Gateway, Site

_PATIENCE = 90.0
_GRACE = 1.0
"""Seconds after a fault in which a client may still be told of it."""
_LONGEST_OUTAGE = 9.0
"""Seconds that the store is away: more than requests wait for it."""
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


class Fault(NamedTuple):
    """One thing that goes wrong, and is well again when its function returns."""

    name: str
    noticed: frozenset[str]
    """What clients may see of it."""
    does: Callable[[str], Awaitable[None]]
    """Is given its name."""


class GatewayFault(NamedTuple):
    """One that a gateway doesn't outlive: what it takes of memory begins anew."""

    name: str
    does: Callable[[Gateway], Awaitable[None]]
    least_workers: int = 1


class Faults:
    """Has one thing after the other go wrong, in an order that a seed decides.

    Args:
        every: seconds from one fault's beginning to the next one's, at least.
        only: the names of the faults that are wanted; none: all.
    """

    def __init__(
        self, site: Site, log: FaultLog, every: float, seed: int, only: Collection[str] = ()
    ) -> None:
        self._site = site
        self._log = log
        self._every = every
        self._outage = min(_LONGEST_OUTAGE, every)
        self._random = random.Random(seed)
        self._extra = False
        self._stopping = asyncio.Event()
        self.harsh = True
        """Whether gateways and workers die, too."""
        faults = [
            Fault("engine killed", ENGINE, self._engine_killed),
            Fault("engine restarted", ENGINE, self._engine_restarted),
            Fault("engine stalls", ENGINE, self._engine_stalls),
            Fault("engine answers 500", ENGINE, self._engine_fails),
            Fault("engine sends HTML", ENGINE, self._engine_sends_html),
            Fault("engine breaks off", ENGINE, self._engine_breaks_off),
            Fault("engine errs in its stream", ENGINE, self._engine_errs_in_stream),
            Fault("reload by signal", NOTHING, self._reload_by_signal),
            Fault("reload by the admin API", NOTHING, self._reload_by_api),
            Fault("backend drained", NOTHING, self._backend_drained),
            Fault("store stopped", STORE, self._store_stopped),
            Fault("store hangs", STORE, self._store_hangs),
        ]
        harsh = [
            GatewayFault("gateway killed", self._gateway_killed),
            GatewayFault("worker killed", self._worker_killed, least_workers=2),
            GatewayFault("gateway restarted", self._gateway_restarted),
        ]
        self._mild = [one for one in faults if not only or one.name in only]
        self._harsh = [one for one in harsh if not only or one.name in only]

    async def run(self) -> None:
        """Until it is stopped, and what was wrong then is well again."""
        turns = itertools.count()
        harsh = itertools.cycle(self._harsh)
        pause = self._every / 2
        order: list[Fault] = []
        while not await self._is_stopped(pause):
            next_at = time.monotonic() + self._every
            if self.harsh and self._harsh and next(turns) % 3 == 1:
                await self._harm(next(harsh))
            else:
                if not order:
                    order = self._random.sample(self._mild, len(self._mild))
                fault = order.pop()
                async with self._log.window(fault.name, fault.noticed):
                    await fault.does(fault.name)
            pause = max(0.0, next_at - time.monotonic())

    async def _harm(self, fault: GatewayFault) -> None:
        gateways = [one for one in self._site.gateways if one.workers >= fault.least_workers]
        gateway = self._random.choice(gateways)
        async with self._log.window(fault.name, GONE, gateway):
            await fault.does(gateway)
            await self._until(self._all_answer, fault.name)
            await self._until(self._site.all_backends_ready, fault.name)

    def stop(self) -> None:
        """Let nothing else go wrong."""
        self._stopping.set()

    async def _is_stopped(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _until(self, condition: Callable[[], Awaitable[Any]], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, OSError):  # it isn't back yet
                if await condition():
                    return
            await asyncio.sleep(0.1)
        self._log.problems.append(f"{_PATIENCE:.0f} s after this, it isn't as before: {what}")

    # Engines ----------------------------------------------------------------------------------

    async def _engine_killed(self, name: str) -> None:
        engine = self._random.choice(self._site.engines)
        await engine.process.kill()
        await asyncio.sleep(self._random.uniform(0.1, self._outage / 3))
        await engine.process.start()
        await self._until(self._site.all_backends_ready, f"{engine.name}: {name}")

    async def _engine_restarted(self, name: str) -> None:
        engine = self._random.choice(self._site.engines)
        await engine.process.end()
        await engine.process.start()
        await self._until(self._site.all_backends_ready, f"{engine.name}: {name}")

    async def _engine_stalls(self, name: str) -> None:
        await self._storm(name, stall_after=self._random.choice((0, 1, 5)))

    async def _engine_fails(self, name: str) -> None:
        await self._storm(name, status=self._random.choice((500, 503)))

    async def _engine_sends_html(self, name: str) -> None:
        await self._storm(name, html=True, status=self._random.choice((200, 502)))

    async def _engine_breaks_off(self, name: str) -> None:
        how = self._random.choice(("reset", "close", "end"))
        await self._storm(name, die_after=self._random.choice((0, 1, 4)), die_how=how)

    async def _engine_errs_in_stream(self, name: str) -> None:
        await self._storm(name, error_in_stream={"message": "Its own words."}, error_after=2)

    async def _storm(self, name: str, **fields: Any) -> None:
        """Have the next requests of an engine fail."""
        engine = self._random.choice(self._site.engines)
        engine.fail(_STORM, **fields)
        await asyncio.sleep(min(2.0, self._every))
        engine.be_well()
        await self._until(self._site.all_backends_ready, f"{engine.name}: {name}")

    # The operator -----------------------------------------------------------------------------

    async def _reload_by_signal(self, name: str) -> None:
        self._configure()
        for gateway in self._site.gateways:
            gateway.process.send(signal.SIGHUP)
        await self._until(self._is_reloaded, name)

    async def _reload_by_api(self, name: str) -> None:
        self._configure()
        for gateway in self._site.gateways:
            await self._site.post(gateway, "reload")
        await self._until(self._is_reloaded, name)

    def _configure(self) -> None:
        self._extra = not self._extra
        for gateway in self._site.gateways:
            gateway.configure(self._site.engines, extra=self._extra)

    async def _is_reloaded(self) -> bool:
        for gateway in self._site.gateways:
            models = {one["name"] for one in (await self._site.admin(gateway, "models"))["data"]}
            if ("extra" in models) != self._extra:
                return False
        return await self._site.all_backends_ready()

    async def _backend_drained(self, name: str) -> None:
        gateway = self._random.choice(self._site.gateways)
        backends = (await self._site.admin(gateway, "backends"))["data"]
        one = self._random.choice([one for one in backends if one["name"] != "embedded"])
        which = {"model": one["model"], "backend": one["name"]}
        await self._site.post(gateway, "backends/drain", **which)
        await asyncio.sleep(2)
        await self._site.post(gateway, "backends/resume", **which)
        await self._until(self._site.all_backends_ready, f"{which}: {name}")

    # The store --------------------------------------------------------------------------------

    async def _store_stopped(self, name: str) -> None:
        await asyncio.to_thread(self._site.postgres.stop)
        await asyncio.sleep(self._random.uniform(0.1, self._outage))
        await asyncio.to_thread(self._site.postgres.start)
        await self._until(self._all_answer, name)

    async def _store_hangs(self, name: str) -> None:
        await asyncio.to_thread(self._site.postgres.pause)
        await asyncio.sleep(self._random.uniform(0.1, self._outage))
        await asyncio.to_thread(self._site.postgres.resume)
        await self._until(self._all_answer, name)

    async def _all_answer(self) -> bool:
        return all([await self._site.answers(gateway) for gateway in self._site.gateways])

    # Gateways ---------------------------------------------------------------------------------

    async def _gateway_killed(self, gateway: Gateway) -> None:
        await gateway.process.kill()
        await gateway.process.start()

    async def _gateway_restarted(self, gateway: Gateway) -> None:
        if (status := await gateway.process.end()) != 0:
            self._log.problems.append(f"gateway {gateway.name} drained to status {status}")
        await gateway.process.start()

    async def _worker_killed(self, gateway: Gateway) -> None:
        os.kill(self._random.choice(gateway.pids[1:]), signal.SIGKILL)
