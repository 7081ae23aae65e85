"""The machines of a cluster: which there are, what is free on each, and which drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from reverie.background import Loop, Watch
from reverie.cluster.launcher import Launcher
from reverie.cluster.messages import EngineSpec, Machine
from reverie.cluster.placement import Placed, Room, place, rooms
from reverie.cluster.roster import AVOIDED_FOR, EngineRecord

LOOK_EVERY = 2.0
"""Seconds between two looks at the machines."""
LOOK_SOON = 0.2
"""The same at least, however much happens."""
LOOK_DEADLINE = 10.0


class Machines:
    """All machines, looked at again and again.

    Args:
        launcher: tells of them.
        clock: the time in seconds.
        on_change: they have changed.
    """

    def __init__(
        self, launcher: Launcher, clock: Callable[[], float], on_change: Callable[[], None]
    ) -> None:
        self.draining: set[str] = set()
        """Addresses of those that get no engine, and that engines leave."""
        self._launcher = launcher
        self._clock = clock
        self._on_change = on_change
        self._machines: dict[str, Machine] | None = None
        """By address; None before the first look."""
        self._started: list[tuple[float, Placed]] = []
        self._ended: list[tuple[float, Placed]] = []
        """What the latest look can't have seen."""
        self._avoid: dict[str, float] = {}
        self._look_now = asyncio.Event()
        self._watch = Watch("cluster machines")
        self._loop: Loop | None = None

    def start(self) -> None:
        self._loop = Loop("cluster machines", self._look)

    async def stop(self) -> None:
        if self._loop is not None:
            await self._loop.stop()
        self._watch.end()

    async def _look(self) -> None:
        while True:
            with self._watch.step():
                self._look_now.clear()
                asked = self._clock()
                async with asyncio.timeout(LOOK_DEADLINE):
                    found = await self._launcher.machines()
                self._seen(found, asked)
            await asyncio.sleep(LOOK_SOON)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY - LOOK_SOON):
                    await self._look_now.wait()

    def _seen(self, found: Sequence[Machine], asked: float) -> None:
        # A machine that came back stands there twice: it is found by the one that lives.
        machines = {one.address: one for one in sorted(found, key=lambda one: one.alive)}
        machines = dict(sorted(machines.items()))
        self._started = [one for one in self._started if one[0] > asked]
        self._ended = [one for one in self._ended if one[0] > asked]
        if machines != self._machines:
            self._machines = machines
            self._on_change()

    def started(self, placed: Placed) -> None:
        self._started.append((self._clock(), placed))
        self._look_now.set()

    def ended(self, placed: Placed) -> None:
        self._ended.append((self._clock(), placed))
        self._look_now.set()

    def distrust(self, address: str) -> None:
        """Nothing could be started there: use it for a while only if no other has room."""
        self._avoid[address] = self._clock() + AVOIDED_FOR

    def distrusted(self) -> set[str]:
        now = self._clock()
        self._avoid = {one: until for one, until in self._avoid.items() if until > now}
        return set(self._avoid)

    def drain(self, address: str, draining: bool) -> None:
        (self.draining.add if draining else self.draining.discard)(address)

    def find(self, name: str) -> Machine | None:
        """A machine by its address, or its id."""
        machines = self._machines or {}
        if name in machines:
            return machines[name]
        return next((one for one in machines.values() if one.id == name), None)

    def unknown(self, name: str) -> str:
        """That there is no such machine, as a sentence."""
        known = list(self._machines or ())
        if not known:
            return f"There is no machine {name}: the cluster has none yet."
        there = f"is {known[0]}" if len(known) == 1 else f"are {_listed(known)}"
        return f"There is no machine {name}. There {there}."

    def told(self) -> list[Machine]:
        """All of them, for a view."""
        machines = (self._machines or {}).values()
        return [replace(one, draining=one.address in self.draining) for one in machines]

    def budget(self, engines: Iterable[EngineRecord], starts: int) -> Budget:
        """What is free now, for so many engines at most."""
        if self._machines is None:
            return Budget({}, self.draining, set(), 0)
        free = rooms(
            self._machines.values(),
            (one.placed for one in engines),
            (placed for _, placed in self._started),
            (placed for _, placed in self._ended),
        )
        return Budget(free, self.draining, self.distrusted(), starts)


class Budget:
    """What one round of decisions may use."""

    def __init__(
        self, free: dict[str, Room], draining: set[str], avoid: set[str], starts: int
    ) -> None:
        self._free = free
        self._draining = draining
        self._avoid = avoid
        self._starts = starts

    def take(self, spec: EngineSpec, avoid: set[str]) -> Machine | str | None:
        """Take the room for an engine, or tell why there is none. None: not in this round."""
        if self._starts <= 0:
            return None
        room = place(spec, self._free.values(), self._draining, self._avoid | avoid)
        if isinstance(room, str):
            return room
        room.take(spec)
        self._starts -= 1
        return room.machine

    def could_replace(self, engine: EngineRecord, spec: EngineSpec) -> bool:
        """Whether an engine could run in the place of another."""
        room = self._free.get(engine.machine)
        if room is None:
            return False
        room.take(engine.spec, -1)
        fits = isinstance(place(spec, [room], self._draining), Room)
        room.take(engine.spec)
        return fits


def _listed(names: Sequence[str], shown: int = 20) -> str:
    if len(names) > shown:
        return ", ".join(names[:shown]) + f" and {len(names) - shown} more"
    return ", ".join(names[:-1]) + " and " + names[-1]
