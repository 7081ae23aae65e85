"""What is free on machines is known though they are asked only now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reverie.cluster.machines import Machines
from reverie.cluster.messages import Machine
from reverie.cluster.placement import Placed
from tests.cluster.launcher import FakeLauncher, machine, spec
from tests.cluster.virtual import virtual


@asynccontextmanager
async def looking(*machines: Machine) -> AsyncIterator[tuple[Machines, FakeLauncher, list[None]]]:
    launcher, changes = FakeLauncher(*machines), list[None]()
    made = Machines(launcher, asyncio.get_running_loop().time, lambda: changes.append(None))
    made.start()
    try:
        yield made, launcher, changes
    finally:
        await made.stop()


@virtual
async def test_before_the_first_look_nothing_is_started_and_nothing_said_to_lack() -> None:
    async with looking(machine("a")) as (machines, _, changes):
        assert machines.budget([], 9).take(spec(), set()) is None
        await asyncio.sleep(0.1)
        assert isinstance(machines.budget([], 9).take(spec(), set()), Machine)
        assert len(changes) == 1


@virtual
async def test_a_round_starts_no_more_than_it_may() -> None:
    async with looking(machine("a", slots=9)) as (machines, _, _changes):
        await asyncio.sleep(0.1)
        budget = machines.budget([], 2)
        got = [budget.take(spec(), set()) for _ in range(3)]
        assert [isinstance(one, Machine) for one in got] == [True, True, False]
        assert got[2] is None


@virtual
async def test_a_machine_that_comes_or_goes_is_news_and_a_look_that_shows_the_same_is_not() -> None:
    async with looking(machine("a")) as (machines, launcher, changes):
        await asyncio.sleep(60)
        assert len(changes) == 1
        launcher.all["b"] = machine("b")
        await asyncio.sleep(2.1)
        assert len(changes) == 2
        assert [one.address for one in machines.told()] == ["a", "b"]


@virtual
async def test_what_ends_between_two_looks_is_free_at_once() -> None:
    async with looking(machine("a", slots=1, free_slots=0)) as (machines, launcher, _):
        launcher._free = lambda one: launcher.all[one.address]  # type: ignore[method-assign]
        await asyncio.sleep(1)
        assert isinstance(machines.budget([], 9).take(spec(), set()), str)
        machines.ended(Placed("a", "m", 0.0, 0))
        assert isinstance(machines.budget([], 9).take(spec(), set()), Machine)
        await asyncio.sleep(3)  # another look says that somebody else has taken it
        assert isinstance(machines.budget([], 9).take(spec(), set()), str)


@virtual
async def test_a_machine_that_came_back_with_another_id_is_alive() -> None:
    old, new = machine("a", id="old", alive=False), machine("a", id="new")
    for both in ([old, new], [new, old]):
        async with looking() as (machines, launcher, _):
            launcher.all = dict(enumerate(both))  # type: ignore[arg-type]
            launcher._free = lambda one: one  # type: ignore[method-assign]
            await asyncio.sleep(0.1)
            found = machines.find("a")
            assert found is not None
            assert found.id == "new"


@virtual
async def test_where_nothing_could_be_started_nothing_is_for_a_minute_unless_it_must() -> None:
    async with looking(machine("a"), machine("b")) as (machines, _, _changes):
        await asyncio.sleep(0.1)
        machines.distrust("a")
        for seconds, address in ((0, "b"), (55, "b"), (10, "a")):
            await asyncio.sleep(seconds)
            found = machines.budget([], 1).take(spec(), set())
            assert isinstance(found, Machine)
            assert found.address == address


@virtual
async def test_machines_are_found_by_address_or_id_and_others_named() -> None:
    async with looking(*(machine(f"10.0.0.{n:02}") for n in range(22))) as (machines, launcher, _):
        assert machines.unknown("x") == "There is no machine x: the cluster has none yet."
        await asyncio.sleep(0.1)
        found = machines.find("id-of-10.0.0.03")
        assert found is not None
        assert found.address == "10.0.0.03"
        assert machines.find("x") is None
        assert machines.unknown("x").endswith("10.0.0.19 and 2 more.")
        launcher.all = {"a": machine("a")}
        await asyncio.sleep(3)
        assert machines.unknown("x") == "There is no machine x. There is a."
