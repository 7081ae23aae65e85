"""Engines leave a machine that drains, and no request is cut for it."""

from __future__ import annotations

import asyncio

import pytest

from reverie.cluster.manager import UnknownMachine
from tests.cluster.launcher import cluster, machine, wanted
from tests.cluster.virtual import until, virtual


@virtual
async def test_engines_leave_a_machine_that_drains_once_replaced_and_free_of_requests() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        uid = next(o.uid for o in made.launcher.running.values() if o.machine == "10.0.0.1")
        gateway.running = {uid: 1}
        drained = await made.manager.drain("10.0.0.1", True)
        assert drained.draining
        assert [one.draining for one in made.view.machines] == [True, False]
        fewest = 9

        def replaced() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(made.ready()))
            return made.launcher.where()["10.0.0.2"] == 2

        await until(replaced)
        assert fewest == 2
        await asyncio.sleep(60)
        assert made.launcher.where() == {"10.0.0.1": 1, "10.0.0.2": 2}
        gateway.running = {}
        await until(lambda: made.launcher.where() == {"10.0.0.2": 2}, seconds=2)
        assert not (await made.manager.drain("id-of-10.0.0.1", False)).draining


@virtual
async def test_without_room_elsewhere_engines_leave_all_the_same_and_the_model_says_why() -> None:
    async with cluster(machine("10.0.0.1"), machine("10.0.0.2", slots=1)) as made:
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await made.manager.drain("10.0.0.1", True)
        await until(lambda: made.launcher.where() == {"10.0.0.2": 1}, seconds=5)
        why = "All engine slots are taken: the machines have 1. 1 machine drains."
        await until(lambda: made.status().why == why, seconds=1)
        await made.manager.drain("10.0.0.2", True)
        await until(lambda: not made.launcher.running, seconds=5)
        assert made.status().why == "All machines drain."


@virtual
async def test_with_no_gateway_left_a_machine_drains_after_a_moment() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await gateway.die()
        await asyncio.sleep(30)
        await made.manager.drain("10.0.0.1", True)
        await asyncio.sleep(5)  # a gateway may come back
        assert made.launcher.where() == {"10.0.0.1": 1, "10.0.0.2": 2}
        await until(lambda: made.launcher.where() == {"10.0.0.2": 2}, seconds=3)


@virtual
async def test_a_machine_that_drains_is_remembered_by_the_next_manager() -> None:
    async with cluster() as made:
        await made.manager.drain("10.0.0.1", True)
        await made.another_manager()
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        assert made.launcher.where() == {"10.0.0.2": 2}


@virtual
async def test_a_machine_that_was_shut_down_for_good_can_be_put_back() -> None:
    async with cluster() as made:
        await made.manager.drain("10.0.0.1", True)
        made.launcher.all.pop("10.0.0.1")
        await asyncio.sleep(5)
        assert not (await made.manager.drain("10.0.0.1", False)).draining
        with pytest.raises(UnknownMachine):
            await made.manager.drain("10.0.0.1", False)


@virtual
async def test_a_machine_that_is_not_there_is_named_with_those_that_are() -> None:
    async with cluster() as made:
        with pytest.raises(UnknownMachine, match=r"no machine 10\.0\.0\.9\. There are 10"):
            await made.manager.drain("10.0.0.9", True)


@virtual
async def test_what_cannot_be_remembered_is_done_all_the_same() -> None:
    async with cluster() as made:

        async def broken(key: str, value: bytes) -> None:
            raise OSError("no storage")

        made.launcher.remember = broken  # type: ignore[method-assign]
        assert (await made.manager.drain("10.0.0.1", True)).draining
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        assert made.launcher.where() == {"10.0.0.2": 2}


@virtual
async def test_engines_that_nobody_asks_a_new_manager_for_leave_a_machine_that_drains() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await gateway.die()
        await made.another_manager()
        await made.manager.drain("10.0.0.1", True)
        await until(lambda: made.launcher.where() == {"10.0.0.2": 1}, seconds=20)
