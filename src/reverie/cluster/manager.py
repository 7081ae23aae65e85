"""Keeps as many engines of each model alive as the gateways need, on machines that have room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from reverie import __version__
from reverie.background import Loop, Watch
from reverie.cluster.decisions import Situation, decide
from reverie.cluster.demand import GONE_AFTER, Gateway, Gateways, Load, load_of, running_on
from reverie.cluster.launcher import Launcher
from reverie.cluster.lives import End, Lives
from reverie.cluster.machines import Budget, Machines
from reverie.cluster.messages import (
    EngineInfo,
    EngineSpec,
    Loads,
    Machine,
    Report,
    View,
    Wanted,
)
from reverie.cluster.roster import EngineRecord, ModelRecord, Roster
from reverie.cluster.views import Views
from reverie.log import fields

logger = logging.getLogger("reverie.cluster")

TICK = 0.5
"""Seconds between two decisions at most."""
MIN_TICK = 0.02
"""The same at least, and five times as long as a decision takes."""
LEAVING_DEADLINE = 900.0
"""Seconds after which an engine that is leaving is stopped, whatever runs on it."""
ADOPTION_DEADLINE = 5.0
"""Seconds within which engines that ran already are to tell of themselves."""
PATIENCE = 1.0
"""Seconds before a manager that found no engine starts one."""
UNKNOWN_IDLE = 60.0
"""Seconds after which engines are stopped that ran already, and that no gateway asks for."""
STARTS_A_TICK = 50
_TAKE_OVER_DEADLINE = 30.0
_KEEPING_DEADLINE = 10.0
_DRAINING = "draining"


class UnknownMachine(LookupError):
    """There is no such machine. The text names those that there are."""


class Manager:
    """Runs the engines of a cluster. All state changes in its event loop.

    Args:
        launcher: runs engines on machines.
        clock: the time in seconds.
    """

    def __init__(self, launcher: Launcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.incarnation = secrets.token_hex(8)
        self._launcher = launcher
        self._clock = clock
        self._roster = Roster()
        self._gateways = Gateways()
        self._machines = Machines(launcher, clock, self._wake_up)
        self._lives = Lives(launcher, self._told, self._ended)
        self._views = Views(clock, self.incarnation)
        self._wake = asyncio.Event()
        self._taken_over = asyncio.Event()
        self._began = clock()
        self._complete = False
        self._living: Sequence[Gateway] = ()
        self._leaving = False
        """Whether an engine waits for the gateways to let go of it."""
        self._watch = Watch("cluster decisions")
        self._keeping = Watch("cluster memory", harmless=True)
        self._loop: Loop | None = None

    # What gateways and operators ask.

    async def start(self) -> None:
        """Take over what runs already, and keep deciding."""
        self._machines.start()
        self._loop = Loop("cluster manager", self._run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TAKE_OVER_DEADLINE):
                await self._taken_over.wait()

    async def stop(self) -> None:
        """Decide nothing any more. Engines run on. Idempotent."""
        if self._loop is not None:
            await self._loop.stop()
        self._watch.end()
        self._keeping.end()
        await self._machines.stop()
        await self._lives.close()

    def deploy(self, gateway: str, models: Sequence[Wanted]) -> None:
        """All that a gateway's configuration asks for."""
        self._gateways.deploy(gateway, models, self._clock())
        self._wake_up()

    def report(self, report: Report) -> Loads:
        """What runs and waits on a gateway, and which view it has applied.

        Returns what it doesn't know: what the others do.
        """
        now = self._clock()
        urgent = self._gateways.report(report, now)
        if urgent or self._leaving:
            self._wake_up()
        return self._gateways.others(report.gateway, now)

    async def view(
        self, gateway: str, incarnation: str, version: int, timeout: float = 20.0
    ) -> View:
        """The cluster, as soon as it is another than in the view named, or time is up."""
        return await self._views.get(incarnation, version, timeout)

    def overview(self) -> View:
        """The cluster now, without the engines' keys."""
        view = self._view()
        engines = [replace(one, info=replace(one.info, key="")) for one in view.engines]
        return replace(view, version=self._views.latest.version, engines=engines)

    async def drain(self, address: str, draining: bool) -> Machine:
        """Take a machine out of use, whose engines leave; or put it back.

        Args:
            address: or Ray's own id of the machine.

        Raises:
            UnknownMachine
            TimeoutError: this manager has just begun, and doesn't get to know the machines.
        """
        async with asyncio.timeout(_TAKE_OVER_DEADLINE):
            await self._taken_over.wait()
            await self._machines.looked.wait()
        machine = self._machines.find(address)
        if machine is None and not draining and address in self._machines.draining:
            machine = Machine("", address, alive=False)  # it has been shut down
        if machine is None:
            raise UnknownMachine(self._machines.unknown(address))
        self._machines.drain(machine.address, draining)
        logger.info(
            "machine drains" if draining else "machine is in use again",
            extra=fields(machine=machine.address),
        )
        self._wake_up()
        with self._keeping.step():
            async with asyncio.timeout(_KEEPING_DEADLINE):
                kept = msgspec.json.encode(sorted(self._machines.draining))
                await self._launcher.remember(_DRAINING, kept)
        return replace(machine, draining=draining)

    # The loop.

    def _wake_up(self) -> None:
        self._wake.set()

    async def _run(self) -> None:
        if not self._taken_over.is_set():
            await self._take_over()
            self._taken_over.set()
        while True:
            self._wake.clear()
            began = self._clock()
            again = self._tick(began)
            pause = max(MIN_TICK, 5 * (self._clock() - began))
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(TICK, again) - pause)):
                    await self._wake.wait()

    async def _take_over(self) -> None:
        """Learn what the manager before this one left."""
        async with asyncio.timeout(_TAKE_OVER_DEADLINE):
            kept = await self._launcher.recall(_DRAINING)
            adopted = await self._launcher.adopt()
        if kept:
            with self._keeping.step():
                for address in msgspec.json.decode(kept, type=list[str]):
                    self._machines.drain(address, True)
        now = self._began = self._clock()
        for one in adopted:
            engine = EngineRecord.begin(one.name, one.uid, one.spec, one.machine, now)
            engine.adopted = engine.was_ready = True  # as far as anybody knows
            self._roster.add(engine)
            self._lives.adopt(engine, one.handle)
        logger.info("manager has begun", extra=fields(engines=len(adopted)))

    def _tick(self, now: float) -> float:
        """Decide about everything once. Returns the seconds until the next time at most."""
        self._living = self._gateways.living(now)
        self._complete = self._complete or self._knows_its_engines(now)
        wanted = self._gateways.wanted(self._living)
        loads = load_of(self._living)
        for name, one in wanted.items():
            self._roster.model(name).want(one, now)
        models = list(self._roster.models.values())
        for model in models:
            load = loads.get(model.name, Load())
            model.in_flight, model.waiting = load.in_flight, load.waiting
            model.measure(load.in_flight + load.waiting, bool(self._living), now)
        budget = self._machines.budget(self._roster.engines(), STARTS_A_TICK)
        broken: Exception | None = None
        # What is missing most gets what room there is.
        for model in sorted(models, key=lambda one: len(one.staying) / max(1, one.need)):
            try:
                self._attend(model, now, model.name in wanted, budget)
            except Exception as failure:  # the other models are well
                broken = failure
        if broken is not None:
            self._watch.failed(broken)
        else:
            self._watch.failures = 0
        leaving = [one for one in self._roster.engines() if one.leaving is not None]
        self._leaving = bool(leaving)
        for engine in leaving:
            if self._may_stop(engine, now):
                self._lives.stop(engine)
        again = self._views.offer(self._view())
        if again is None:  # the latest view says what is so
            for engine in leaving:
                if engine.leaving_version is None:
                    engine.leaving_version = self._views.latest.version
        return TICK if again is None else again

    def _knows_its_engines(self, now: float) -> bool:
        age = now - self._began
        adopted = [one for one in self._roster.engines() if one.adopted]
        if not adopted:
            return age >= PATIENCE
        return all(one.answered for one in adopted) or age >= ADOPTION_DEADLINE

    def _attend(self, model: ModelRecord, now: float, listed: bool, budget: Budget) -> None:
        """Do what is to be done about one model."""
        model.recover(now)
        for engine in list(model.engines.values()):
            if trouble := engine.trouble(now):
                self._give_up(model, engine, trouble, now)
        if self._is_unwanted(model, now, listed):
            for engine in model.staying:
                engine.leave(now)
            self._explain(model, "")
            if not model.engines:
                del self._roster.models[model.name]
            return
        wanted = model.wanted
        if wanted is None and not self._living and now - self._began >= 2 * GONE_AFTER:
            for engine in model.staying:  # there is nobody to miss it
                if engine.machine in self._machines.draining:
                    engine.leave(now)
        if wanted is None or not self._complete:
            return
        spec = replace(wanted.spec, memory=wanted.spec.memory or model.memory)
        avoid = model.avoided(now)
        situation = Situation(
            now,
            model.keep(now),
            wanted.most,
            self._machines.draining,
            lambda engine: running_on(engine.uid, self._living),
            lambda: budget.take(spec, avoid),
            lambda engine: budget.could_replace(engine, spec),
        )
        decision = decide(model, situation)
        for engine in decision.back:
            engine.stay()
        for engine in decision.leave:
            engine.leave(now)
            logger.info("engine leaves", extra=fields(engine=engine.name, machine=engine.machine))
        for machine in decision.start:
            self._start(model, spec, machine, now)
        if len(model.staying) >= model.need:
            model.forget_vacancies()
        self._explain(model, decision.why)

    def _is_unwanted(self, model: ModelRecord, now: float, listed: bool) -> bool:
        """Whether no gateway has asked for it for long enough. Unless all have told what they ask
        for, nobody knows."""
        told = self._living and all(one.models is not None for one in self._living)
        if listed or not told:
            model.unlisted = None
            return False
        if model.unlisted is None:
            model.unlisted = now
        idle = model.wanted.idle if model.wanted else UNKNOWN_IDLE
        return now - model.unlisted >= idle

    def _may_stop(self, engine: EngineRecord, now: float) -> bool:
        """Whether no gateway uses an engine that is leaving, and none will."""
        if engine.stopping or engine.handle is None:
            return False
        age = now - (engine.leaving or now)
        if not engine.was_ready or age >= LEAVING_DEADLINE:
            return True
        if now - self._began < GONE_AFTER:  # there may be more gateways
            return False
        if not self._living:
            return age >= GONE_AFTER
        version = engine.leaving_version
        return version is not None and not any(
            one.holds(engine.uid, self.incarnation, version) for one in self._living
        )

    # What happens to engines.

    def _start(self, model: ModelRecord, spec: EngineSpec, machine: Machine, now: float) -> None:
        name = f"{model.name}/{model.free_number()}"
        engine = EngineRecord.begin(name, secrets.token_hex(8), spec, machine.address, now)
        self._roster.add(engine)
        self._machines.started(engine.placed)
        self._lives.start(engine, machine)
        logger.info("engine starts", extra=fields(engine=engine.name, machine=engine.machine))

    def _give_up(self, model: ModelRecord, engine: EngineRecord, why: str, now: float) -> None:
        """End an engine that will never be of use."""
        if engine.leaving is None:
            self._failed(model, engine, why, now)
        engine.leave(now)
        self._lives.stop(engine)

    def _failed(self, model: ModelRecord, engine: EngineRecord, why: str, now: float) -> None:
        model.vacate(engine)
        if engine.digest == model.digest:
            model.failed(engine, why, now)
        logger.warning(
            "engine failed", extra=fields(engine=engine.name, machine=engine.machine, reason=why)
        )

    def _told(self, engine: EngineRecord, info: EngineInfo) -> None:
        now = self._clock()
        new = not engine.was_ready or (engine.adopted and not engine.answered)
        engine.told(info, now)
        if new and engine.ready:
            logger.info("engine is ready", extra=fields(engine=engine.name, machine=engine.machine))
        self._roster.model(engine.spec.model).learn(engine, now, new and engine.ready)
        self._wake_up()

    def _ended(self, engine: EngineRecord, end: End) -> None:
        if not self._roster.remove(engine):
            return
        self._machines.ended(engine.placed)
        model = self._roster.model(engine.spec.model)
        if not end.launched:
            self._machines.distrust(engine.machine)
        if engine.leaving is not None:
            logger.info("engine ended", extra=fields(engine=engine.name, reason=end.reason))
        elif not engine.lasts(self._clock()):
            self._failed(model, engine, end.reason, self._clock())
        else:
            model.vacate(engine)
            logger.warning("engine died", extra=fields(engine=engine.name, reason=end.reason))
        self._wake_up()

    def _explain(self, model: ModelRecord, why: str) -> None:
        if why == model.why:
            return
        model.why = why
        if why:
            logger.warning("engines are missing", extra=fields(model=model.name, reason=why))
        else:
            logger.info("no engine is missing any more", extra=fields(model=model.name))

    def _view(self) -> View:
        """The cluster as it is; ``version`` isn't counted yet."""
        return View(
            incarnation=self.incarnation,
            version=0,
            complete=self._complete,
            engines=[one.engine() for one in self._roster.in_order()],
            ended=self._roster.ended(),
            models=[
                status
                for _, model in sorted(self._roster.models.items())
                if (status := model.status()) is not None
            ],
            machines=self._machines.told(),
            gateways=len(self._living),
            reverie=__version__,
        )
