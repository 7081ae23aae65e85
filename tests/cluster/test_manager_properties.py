"""Whatever happens in whatever order: what holds of engines at all times, and in the end."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.cluster.messages import Wanted
from tests.cluster.launcher import Cluster, FakeEngine, FakeGateway, cluster, machine, wanted
from tests.cluster.virtual import run, until

MOST = 3
MACHINES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
numbers = st.integers(0, 5)
machines = st.sampled_from(MACHINES)
events = st.one_of(
    st.tuples(st.just("demand"), numbers, numbers),
    st.tuples(st.just("use"), numbers, numbers),
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("kill"), numbers),
    st.tuples(st.just("drain"), machines, st.booleans()),
    st.tuples(st.just("refuse"), machines, st.booleans()),
    st.tuples(st.just("break"), machines, st.booleans()),
    st.tuples(st.just("change"), st.sampled_from(["one", "other"])),
    st.tuples(st.just("join")),
    st.tuples(st.just("leave"), numbers),
)
pauses = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.5, 4.0, 8.0])
histories = st.lists(st.tuples(events, pauses), max_size=25)


class World:
    """A cluster to which things happen, and the rules that are to hold meanwhile."""

    def __init__(self, made: Cluster) -> None:
        self.made = made
        self.source, self.generation = "one", 1
        self.restarted = False
        self.drained: set[str] = set()
        """Engines that have left with their machine: no replacement waits for those."""
        now = asyncio.get_running_loop().time()
        self.within = {"m": now, "n": now}
        """When each model's engines were last within its bounds, but for those to be replaced."""
        made.launcher.on_stop = self.stops
        made.launcher.on_start = lambda engine: self.look()
        self.join()

    def wishes(self) -> list[Wanted]:
        of = {"idle": 2.0, "generation": self.generation}
        return [
            wanted("m", f"1-{MOST}", source=self.source, **of),  # type: ignore[arg-type]
            wanted("n", "0-1", **of),  # type: ignore[arg-type]
        ]

    def join(self) -> None:
        self.made.gateway(*self.wishes())

    def one_of(self, number: int) -> FakeGateway | None:
        gateways = self.made.gateways
        return gateways[number % len(gateways)] if gateways else None

    async def happen(self, name: str, *of: Any) -> None:
        made, launcher = self.made, self.made.launcher
        if name == "demand":
            if gateway := self.one_of(of[0]):
                gateway.ask(of[0], of[1], "m")
                gateway.ask(0, of[1] % 2, "n")
        elif name == "use":
            if (gateway := self.one_of(of[0])) and (usable := gateway.usable()):
                uid = usable[of[1] % len(usable)].info.uid  # it tells of it only later
                gateway.running[uid] = gateway.running.get(uid, 0) + 1
        elif name == "finish":
            if gateway := self.one_of(of[0]):
                gateway.running.clear()
        elif name == "kill":
            if launcher.running:
                list(launcher.running.values())[of[0] % len(launcher.running)].die()
        elif name == "drain":
            await made.manager.drain(*of)
        elif name in ("refuse", "break"):
            faults = launcher.refuses if name == "refuse" else launcher.dies_loading
            faults.pop(of[0], None)
            if of[1]:
                faults[of[0]] = "out of order"
        elif name == "change":
            self.source = of[0]
            self.generation += 1
            for gateway in made.gateways:
                gateway.deploy(*self.wishes())
        elif name == "join" and len(made.gateways) < 3:
            self.join()
        elif name == "leave" and (gateway := self.one_of(of[0])):
            made.gateways.remove(gateway)
            await gateway.die()
        elif name == "restart":
            self.restarted = True
            await made.another_manager()

    def stops(self, engine: FakeEngine) -> None:
        """An engine is stopped."""
        users = [one.name for one in self.made.gateways if one.running.get(engine.uid)]
        assert not users, f"{engine.name} was stopped under {users}"
        self.look()

    def look(self) -> None:
        view = self.made.view
        names = [one.name for one in view.engines]
        assert len(names) == len(set(names)), names
        drains = {one.address for one in view.machines if one.draining}
        self.drained |= {o.info.uid for o in view.engines if o.leaving and o.machine in drains}
        if self.restarted:  # another manager can't know which engines were leaving
            return
        for model, most in (("m", MOST), ("n", 1)):
            ours = [one for one in view.engines if one.model == model]
            staying = [one for one in ours if not one.leaving]
            misfits = [
                one
                for one in staying
                if one.machine in drains or one.digest != self.made.status(model).digest
            ]
            assert len(staying) <= most + 1, ours
            now = asyncio.get_running_loop().time()
            if len(staying) <= most or misfits:
                self.within[model] = now
            # A machine may drain no longer, once a replacement has been started.
            assert now - self.within[model] <= 12, ours
            counted = [one for one in ours if one.info.uid not in self.drained]
            assert len(counted) <= most + 1, ours

    async def settle(self, requests: int) -> None:
        """All is well again, and stays so."""
        made, launcher = self.made, self.made.launcher
        launcher.refuses.clear()
        launcher.dies_loading.clear()
        for address in MACHINES:
            await made.manager.drain(address, False)
        if not made.gateways:
            self.join()
        for gateway in made.gateways:
            gateway.running.clear()
            gateway.ask(0, 0, "m")
            gateway.ask(0, 0, "n")
        made.gateways[0].ask(requests, 0, "m")
        needed = min(MOST, max(1, -(-requests // 2)))

        def settled() -> bool:
            self.look()
            as_wished = all(
                one.spec == wish.spec
                for wish in self.wishes()
                for one in launcher.running.values()
                if one.spec.model == wish.spec.model
            )
            return (
                as_wished
                and len(made.ready("m")) == len(launcher.names("m")) == needed
                and not launcher.names("n")
                and all(len(one.usable()) == needed for one in made.gateways)
            )

        await until(settled, seconds=200, step=0.5)
        await asyncio.sleep(20)
        assert settled()
        assert made.status("m").why == ""


def tell(history: list[tuple[tuple[Any, ...], float]], requests: int) -> None:
    async def live() -> None:
        async with cluster(*(machine(one, slots=2) for one in MACHINES)) as made:
            made.launcher.seconds_to_load = 0.3
            world = World(made)
            for event, pause in history:
                await world.happen(*event)
                await asyncio.sleep(pause)
                world.look()
            await world.settle(requests)

    run(live())


@settings(max_examples=60)
@given(histories, numbers)
def test_bounds_are_kept_and_no_engine_is_stopped_under_a_request(
    history: list[tuple[tuple[Any, ...], float]], requests: int
) -> None:
    tell(history, requests)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.one_of(events, st.tuples(st.just("restart"))), pauses), max_size=15),
    numbers,
)
def test_a_manager_that_is_killed_stops_no_engine_under_a_request(
    history: list[tuple[tuple[Any, ...], float]], requests: int
) -> None:
    tell([*history, (("restart",), 0.1)], requests)
