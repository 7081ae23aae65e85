"""Managers and gateways come and go, and the engines run on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reverie.cluster.launcher import Adopted
from tests.cluster.launcher import cluster, wanted
from tests.cluster.virtual import until, virtual


@virtual
async def test_with_no_gateway_left_the_engines_stay_and_are_replaced() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="0-3", idle=5))
        gateway.ask(in_flight=5)
        await made.until_ready("m/0", "m/1", "m/2")
        await gateway.die()
        await asyncio.sleep(1000)
        assert made.ready() == ["m/0", "m/1", "m/2"]
        made.launcher.named("m/1").die()
        await made.until_ready("m/0", "m/1", "m/2", seconds=3)
        back = made.gateway(wanted(bounds="0-3", idle=5))
        await asyncio.sleep(4)
        assert made.ready() == ["m/0", "m/1", "m/2"]
        back.ask(in_flight=1)
        await made.until_ready("m/0")


@virtual
async def test_a_new_manager_adopts_the_engines_and_starts_none_beside_them() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-3", idle=30))
        gateway.ask(in_flight=5)
        await made.until_ready("m/0", "m/1", "m/2")
        before, seen = set(made.launcher.running), gateway.view
        gateway.ask(in_flight=1)
        await made.another_manager()
        assert seen is not None
        view = await made.manager.view("g1", seen.incarnation, seen.version)
        assert view.incarnation != seen.incarnation
        await until(lambda: made.view.complete, seconds=1)
        assert made.ready() == ["m/0", "m/1", "m/2"]
        await asyncio.sleep(25)
        assert set(made.launcher.running) == before
        await made.until_ready("m/0")
        assert len(made.launcher.attempts) == 3


@virtual
async def test_a_new_manager_that_is_not_told_what_runs_asks_again_and_starts_nothing() -> None:
    async with cluster() as made:
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        before, adopt = set(made.launcher.running), made.launcher.adopt
        left = 3

        async def adopt_late() -> Sequence[Adopted]:
            nonlocal left
            left -= 1
            if left >= 0:
                raise TimeoutError
            return await adopt()

        made.launcher.adopt = adopt_late  # type: ignore[method-assign]
        await made.another_manager()
        await until(lambda: made.view.complete, seconds=20)
        assert set(made.launcher.running) == before
        assert len(made.launcher.attempts) == 2


@virtual
async def test_a_new_manager_is_incomplete_until_its_engines_answer_or_five_seconds() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2-3"))
        await made.until_ready("m/0", "m/1")
        made.launcher.mute = True
        await made.another_manager()
        gateway.ask(waiting=6)
        await asyncio.sleep(4)
        assert not made.view.complete
        assert len(made.launcher.attempts) == 2
        await until(lambda: made.view.complete, seconds=2)
        await until(lambda: len(made.launcher.attempts) == 3, seconds=1)


@virtual
async def test_an_engine_that_a_new_manager_knows_nothing_of_may_be_in_use() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1"))
        await made.until_ready("m/0")
        uid = made.launcher.named("m/0").uid
        gateway.running = {uid: 1}
        made.launcher.mute = True
        await made.another_manager()
        await made.manager.drain("10.0.0.1", True)
        await asyncio.sleep(60)
        assert uid in made.launcher.running


@virtual
async def test_a_new_manager_stops_nothing_before_all_gateways_can_have_reported() -> None:
    async with cluster() as made:
        made.gateway(wanted(bounds="2"))
        slow = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        uid = next(o.uid for o in made.launcher.running.values() if o.machine == "10.0.0.1")
        await slow.die()
        slow.running = {uid: 1}
        await made.manager.drain("10.0.0.1", True)
        await made.another_manager()
        await asyncio.sleep(4)
        slow.start()
        await asyncio.sleep(60)
        assert uid in made.launcher.running
        assert made.launcher.where()["10.0.0.2"] == 2


@virtual
async def test_gateways_that_have_not_told_what_they_ask_for_may_ask_for_anything() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await gateway.die()
        await made.another_manager()
        for _ in range(200):
            gateway.tell()
            await asyncio.sleep(0.5)
        assert made.ready() == ["m/0", "m/1"]


@virtual
async def test_engines_that_nobody_asks_a_new_manager_for_leave_after_a_minute() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await gateway.die()
        made.gateways.clear()
        await made.another_manager()
        await asyncio.sleep(200)
        assert made.launcher.names() == ["m/0", "m/1"]
        made.gateway(wanted("n", "1"))
        await asyncio.sleep(50)
        assert made.launcher.names("m") == ["m/0", "m/1"]
        await until(lambda: made.launcher.names() == ["n/0"], seconds=20)


@virtual
async def test_a_manager_that_stops_leaves_its_engines_running() -> None:
    async with cluster() as made:
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        await made.manager.stop()
        await made.manager.stop()
        await asyncio.sleep(10)
        assert made.launcher.names() == ["m/0", "m/1"]
        assert all(not one.stops_asked for one in made.launcher.running.values())
