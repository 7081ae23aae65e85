"""Machines and engines that do what a test says, and gateways that use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from reverie.cluster.launcher import Adopted, EngineDied, LaunchFailed
from reverie.cluster.manager import Manager
from reverie.cluster.messages import (
    Demand,
    Engine,
    EngineInfo,
    EngineSpec,
    Machine,
    ModelStatus,
    Report,
    View,
    Wanted,
)
from tests.cluster.virtual import until


def machine(address: str, slots: int = 4, **more: Any) -> Machine:
    """One that is alive, with all of it free."""
    gpus, memory = more.pop("gpus", 0.0), more.pop("memory", 2**40)
    free = {"free_slots": slots, "free_gpus": gpus, "free_memory": memory, **more}
    return Machine(
        **{
            "id": f"id-of-{address}",
            "address": address,
            "alive": True,
            "slots": slots,
            "gpus": gpus,
            "memory": memory,
            **free,
        }
    )


def spec(model: str = "m", source: str = "file", **more: Any) -> EngineSpec:
    return EngineSpec(model, {"source": source, "slots": more.pop("slots", 2)}, **more)


def wanted(
    model: str = "m",
    bounds: str = "1-3",
    *,
    source: str = "file",
    idle: float = 10.0,
    generation: int = 1,
    **more: Any,
) -> Wanted:
    least, _, most = bounds.partition("-")
    return Wanted(spec(model, source, **more), int(least), int(most or least), idle, generation)


class FakeEngine:
    """An engine's process, as its handle."""

    def __init__(self, launcher: FakeLauncher, adopted: Adopted | None = None, **of: Any) -> None:
        self.launcher = launcher
        self.name: str = of["name"]
        self.uid: str = of["uid"]
        self.spec: EngineSpec = of["spec"]
        self.machine: str = of["machine"]
        self.info = EngineInfo(self.uid, 1, "loading", slots=self.spec.settings["slots"])
        self.death = ""
        self.stops_asked = 0
        self._changed = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None

    def load(self) -> None:
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> None:
        launcher = self.launcher
        await asyncio.sleep(launcher.seconds_to_load)
        if why := launcher.dies_loading.get(self.machine):
            self.die(why)
        elif why := launcher.fails_loading.get(self.spec.settings["source"]):
            self.tell("failed", why=why)
        elif self.machine not in launcher.never_ready:
            self.tell("ready", memory=launcher.memory, url="http://x/v1", key="secret")

    def tell(self, state: str, **more: Any) -> None:
        revision = self.info.revision + 1
        self.info = replace(self.info, revision=revision, state=state, **more)
        self._notify()

    def die(self, why: str = "its process was killed") -> None:
        if self.death:
            return
        self.death = why
        self.launcher.running.pop(self.uid, None)
        if self._loading is not None:
            self._loading.cancel()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self, seen: int) -> EngineInfo:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while not self.death and (self.info.revision <= seen or self.launcher.mute):
                    await self._changed.wait()
        if self.death:
            raise EngineDied(self.death)
        return self.info

    async def stop(self) -> None:
        self.stops_asked += 1
        self.launcher.on_stop(self)
        if self.machine in self.launcher.never_stops:
            await asyncio.sleep(10**9)
        await asyncio.sleep(0.05)
        self.die("it was stopped")


class FakeLauncher:
    """Machines with engines on them, which outlive the manager."""

    def __init__(self, *machines: Machine) -> None:
        self.all = {one.address: one for one in machines}
        self.running: dict[str, FakeEngine] = {}
        self.kept: dict[str, bytes] = {}
        self.seconds_to_start = 0.1
        self.seconds_to_load = 1.0
        self.memory = 0
        """What engines say that they need."""
        self.refuses: dict[str, str] = {}
        """Machines where nothing can be started, with the reason."""
        self.hangs: set[str] = set()
        """Machines where a start never returns."""
        self.dies_loading: dict[str, str] = {}
        """Machines where engines die before they are ready."""
        self.fails_loading: dict[str, str] = {}
        """Files that no engine can load."""
        self.never_ready: set[str] = set()
        self.never_stops: set[str] = set()
        self.mute = False
        """Engines tell nothing."""
        self.blind = False
        """The machines can't be seen."""
        self.attempts: list[tuple[str, str]] = []
        """Each start: the engine's name and its machine."""
        self.on_stop: Callable[[FakeEngine], None] = lambda engine: None
        self.on_start: Callable[[FakeEngine], None] = lambda engine: None

    async def machines(self) -> Sequence[Machine]:
        if self.blind:
            await asyncio.sleep(10**9)
        await asyncio.sleep(0.01)
        return [self._free(one) for one in self.all.values()]

    def _free(self, one: Machine) -> Machine:
        there = [engine.spec for engine in self.running.values() if engine.machine == one.address]
        return replace(
            one,
            free_slots=one.slots - len(there),
            free_gpus=one.gpus - sum(each.gpus for each in there),
            free_memory=one.memory - sum(each.memory for each in there),
        )

    async def start(self, name: str, uid: str, spec: EngineSpec, machine: Machine) -> FakeEngine:
        address = machine.address
        self.attempts.append((name, address))
        await asyncio.sleep(10**9 if address in self.hangs else self.seconds_to_start)
        if why := self.refuses.get(address):
            raise LaunchFailed(why)
        if self._free(self.all[address]).free_slots < 1:
            raise LaunchFailed("no slot is free")
        assert name not in {one.name for one in self.running.values()}, f"two are named {name}"
        engine = FakeEngine(self, name=name, uid=uid, spec=spec, machine=address)
        self.running[uid] = engine
        engine.load()
        self.on_start(engine)
        return engine

    async def adopt(self) -> Sequence[Adopted]:
        await asyncio.sleep(0.05)
        return [
            Adopted(one.name, one.uid, one.spec, one.machine, one) for one in self.running.values()
        ]

    async def remember(self, key: str, value: bytes) -> None:
        self.kept[key] = value

    async def recall(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def named(self, name: str) -> FakeEngine:
        return next(one for one in self.running.values() if one.name == name)

    def names(self, model: str = "") -> list[str]:
        return sorted(
            one.name for one in self.running.values() if not model or one.spec.model == model
        )

    def where(self) -> Counter[str]:
        """How many engines each machine has."""
        return Counter(one.machine for one in self.running.values())


class FakeGateway:
    """A gateway that tells the manager of its requests, and follows its views."""

    def __init__(self, manager: Manager, name: str, *models: Wanted) -> None:
        self.manager = manager
        self.name = name
        self.models = list(models)
        self.demand: dict[str, Demand] = {}
        self.running: dict[str, int] = {}
        """Requests on each engine, by ``uid``."""
        self.view: View | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> FakeGateway:
        self.manager.deploy(self.name, self.models)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow()), loop.create_task(self._tell())]
        return self

    def deploy(self, *models: Wanted) -> None:
        self.models = list(models)
        self.manager.deploy(self.name, self.models)

    def ask(self, in_flight: int = 0, waiting: int = 0, model: str = "m") -> None:
        self.demand[model] = Demand(in_flight, waiting)
        self.tell()

    def tell(self) -> None:
        version = (self.view.incarnation, self.view.version) if self.view else ("", 0)
        self.manager.report(Report(self.name, dict(self.demand), dict(self.running), *version))

    async def _tell(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(0.5)

    async def _follow(self) -> None:
        while True:
            manager = self.manager
            seen = (self.view.incarnation, self.view.version) if self.view else ("", 0)
            view = await manager.view(self.name, *seen)
            if manager is not self.manager:
                continue
            if self.view is None or view.incarnation != self.view.incarnation:
                manager.deploy(self.name, self.models)
            self.view = view
            gone = set(view.ended)
            self.running = {uid: n for uid, n in self.running.items() if uid not in gone}

    def usable(self, model: str = "m") -> list[Engine]:
        """Those that may be asked."""
        engines = self.view.engines if self.view else []
        return [
            one
            for one in engines
            if one.model == model and one.info.state == "ready" and not one.leaving
        ]

    async def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Cluster:
    """A manager on such machines, and its gateways."""

    def __init__(self, *machines: Machine) -> None:
        self.launcher = FakeLauncher(*machines)
        self.manager = self._manager()
        self.gateways: list[FakeGateway] = []

    def _manager(self) -> Manager:
        return Manager(self.launcher, clock=asyncio.get_running_loop().time)

    def gateway(self, *models: Wanted) -> FakeGateway:
        gateway = FakeGateway(self.manager, f"g{len(self.gateways)}", *models).start()
        self.gateways.append(gateway)
        return gateway

    async def another_manager(self) -> None:
        """The manager is killed, and started anew."""
        await self.manager.stop()
        self.manager = self._manager()
        await self.manager.start()
        for gateway in self.gateways:
            gateway.manager = self.manager

    @property
    def view(self) -> View:
        return self.manager.overview()

    def status(self, model: str = "m") -> ModelStatus:
        return next(one for one in self.view.models if one.model == model)

    def ready(self, model: str = "m") -> list[str]:
        """The names of the engines that may be used."""
        return [
            one.name
            for one in self.view.engines
            if one.model == model and one.info.state == "ready" and not one.leaving
        ]

    async def until_ready(self, *names: str, seconds: float = 60.0) -> None:
        """Wait until exactly these engines run, and may be used."""
        model = names[0].partition("/")[0]
        await until(
            lambda: self.ready(model) == self.launcher.names(model) == sorted(names), seconds
        )


@contextlib.asynccontextmanager
async def cluster(*machines: Machine) -> AsyncIterator[Cluster]:
    """A cluster of two machines, or of these."""
    made = Cluster(*(machines or (machine("10.0.0.1"), machine("10.0.0.2"))))
    await made.manager.start()
    try:
        yield made
    finally:
        for gateway in made.gateways:
            await gateway.die()
        await made.manager.stop()
        for engine in list(made.launcher.running.values()):
            engine.die()
