"""Engines are there when gateways need them, and go when nobody uses them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from reverie.cluster.manager import Manager, UnknownMachine
from tests.cluster.launcher import cluster, machine, wanted
from tests.cluster.virtual import until, virtual


@virtual
async def test_the_least_number_of_engines_starts_spread_over_the_machines() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2-3"))
        await made.until_ready("m/0", "m/1", seconds=4)
        assert made.launcher.where() == {"10.0.0.1": 1, "10.0.0.2": 1}
        await until(lambda: len(gateway.usable()) == 2, seconds=0.2)
        assert made.status().wanted == 2


@virtual
async def test_engines_follow_demand_up_at_once_and_down_one_by_one_after_idleness() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-3", idle=20))
        await made.until_ready("m/0")
        gateway.ask(in_flight=2, waiting=3)  # of two slots an engine
        await until(lambda: len(made.view.engines) == 3, seconds=0.2)
        await made.until_ready("m/0", "m/1", "m/2", seconds=2)
        gateway.ask(in_flight=1)
        began = asyncio.get_running_loop().time()
        await until(lambda: len(made.launcher.running) == 2)
        assert 19 <= asyncio.get_running_loop().time() - began <= 23
        await made.until_ready("m/0", seconds=5)
        await asyncio.sleep(100)
        assert made.launcher.names() == ["m/0"]


@virtual
async def test_the_idlest_engine_leaves_and_of_equals_the_highest_number() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-3", idle=5))
        gateway.ask(in_flight=6)
        await made.until_ready("m/0", "m/1", "m/2")
        uid = {one.name: one.uid for one in made.launcher.running.values()}
        gateway.running = {uid["m/0"]: 1, uid["m/2"]: 2}
        gateway.ask(in_flight=3)
        await made.until_ready("m/0", "m/2")
        gateway.running = {}
        gateway.ask()
        await made.until_ready("m/0")


@virtual
async def test_an_engine_that_leaves_is_taken_back_when_demand_rises() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-2", idle=5))
        gateway.ask(in_flight=4)
        await made.until_ready("m/0", "m/1")
        gateway.running = {made.launcher.named("m/1").uid: 1, made.launcher.named("m/0").uid: 1}
        gateway.ask(in_flight=2)
        await until(lambda: made.ready() == ["m/0"])
        gateway.ask(in_flight=4)
        await until(lambda: made.ready() == ["m/0", "m/1"], seconds=1)
        assert len(made.launcher.attempts) == 2


@virtual
async def test_a_model_goes_to_zero_and_back_and_says_how_long_that_takes() -> None:
    async with cluster() as made:
        made.launcher.seconds_to_load = 7
        gateway = made.gateway(wanted(bounds="0-2", idle=5))
        await asyncio.sleep(5)
        assert (made.launcher.running, made.status().seconds_to_ready) == ({}, None)
        gateway.ask(waiting=1)
        await made.until_ready("m/0")
        gateway.ask()
        await until(lambda: not made.launcher.running)
        await until(lambda: not gateway.usable())
        assert made.status().seconds_to_ready == pytest.approx(7.1, abs=0.2)
        gateway.ask(waiting=1)
        await made.until_ready("m/0", seconds=8)


@virtual
async def test_gateways_add_their_demand() -> None:
    async with cluster() as made:
        one, other = made.gateway(wanted(bounds="1-3")), made.gateway(wanted(bounds="1-3"))
        one.ask(in_flight=3)
        other.ask(in_flight=1, waiting=1)
        await made.until_ready("m/0", "m/1", "m/2")
        assert (made.status().in_flight, made.status().waiting) == (4, 1)
        assert made.view.gateways == 2


@virtual
async def test_no_engine_is_stopped_that_a_gateway_uses_or_may_yet_use() -> None:
    async with cluster() as made:
        one, other = made.gateway(wanted(bounds="1-2", idle=5)), made.gateway()
        one.ask(in_flight=4)
        await made.until_ready("m/0", "m/1")
        await other.die()
        uid = made.launcher.named("m/1").uid
        one.running = {made.launcher.named("m/0").uid: 2}
        other.running = {uid: 1}  # and it hasn't seen the view yet
        one.ask(in_flight=1)
        for _ in range(100):
            other.tell()
            await asyncio.sleep(0.5)
        assert made.ready() == ["m/0"]
        assert made.launcher.names() == ["m/0", "m/1"]
        other.running = {}
        for _ in range(10):
            other.tell()  # it has no request there, but may send one
            await asyncio.sleep(0.5)
        assert made.launcher.names() == ["m/0", "m/1"]
        other.view = made.view
        other.tell()
        await made.until_ready("m/0", seconds=1)


@virtual
async def test_a_gateway_that_dies_holds_up_no_engine_that_leaves() -> None:
    async with cluster() as made:
        one, other = made.gateway(wanted(bounds="1-2", idle=5)), made.gateway(wanted(bounds="1-2"))
        one.ask(in_flight=4)
        await made.until_ready("m/0", "m/1")
        one.running = {made.launcher.named("m/0").uid: 2}
        other.running = {made.launcher.named("m/1").uid: 1}
        other.tell()
        one.ask(in_flight=2)
        await until(lambda: made.ready() == ["m/0"])
        await other.die()
        await made.until_ready("m/0", seconds=7)


@virtual
async def test_an_endless_request_holds_an_engine_up_for_a_quarter_of_an_hour_at_most() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-2", idle=5))
        gateway.ask(in_flight=4)
        await made.until_ready("m/0", "m/1")
        gateway.running = dict.fromkeys(made.launcher.running, 1)
        gateway.ask(in_flight=2)
        await until(lambda: made.ready() == ["m/0"])
        began = asyncio.get_running_loop().time()
        await until(lambda: made.launcher.names() == ["m/0"], seconds=1000)
        assert asyncio.get_running_loop().time() - began >= 899


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
async def test_a_model_that_no_gateway_lists_any_more_leaves_after_its_idle_time() -> None:
    async with cluster() as made:
        one = made.gateway(wanted("m", "2", idle=20), wanted("n", "1"))
        other = made.gateway(wanted("n", "1"))
        await made.until_ready("m/0", "m/1")
        one.deploy(wanted("n", "1"))
        await asyncio.sleep(15)
        assert made.ready() == ["m/0", "m/1"]
        await until(lambda: made.launcher.names("m") == [], seconds=10)
        assert [status.model for status in made.view.models] == ["n"]
        assert other.usable("n")


@virtual
async def test_the_latest_configuration_holds_and_a_changed_bound_replaces_nothing() -> None:
    async with cluster() as made:
        made.gateway(wanted(bounds="1", generation=5))
        await made.until_ready("m/0")
        late = made.gateway(wanted(bounds="3", source="other", generation=4))
        await asyncio.sleep(5)
        assert made.ready() == ["m/0"]
        assert made.status().digest == wanted().spec.digest
        late.deploy(wanted(bounds="3", generation=6))
        await made.until_ready("m/0", "m/1", "m/2")
        assert len(made.launcher.attempts) == 3


@virtual
async def test_a_changed_model_is_replaced_engine_by_engine_without_a_gap() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="3"))
        await made.until_ready("m/0", "m/1", "m/2")
        old = set(made.launcher.running)
        gateway.deploy(wanted(bounds="3", source="new", generation=2))
        fewest, most = 9, 0

        def done() -> bool:
            nonlocal fewest, most
            fewest = min(fewest, len(made.ready()))
            most = max(most, len(made.launcher.running))
            return not old & set(made.launcher.running)

        await until(done)
        assert (fewest, most) == (3, 4)
        await until(lambda: len(made.ready()) == len(made.launcher.running) == 3)
        assert {one.digest for one in made.view.engines} == {made.status().digest}


@virtual
async def test_where_there_is_no_room_for_a_new_one_the_old_one_leaves_first() -> None:
    async with cluster(machine("10.0.0.1", slots=2)) as made:
        gateway = made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        old = set(made.launcher.running)
        gateway.deploy(wanted(bounds="2", source="new", generation=2))
        fewest = 9

        def done() -> bool:
            nonlocal fewest
            fewest = min(fewest, len(made.ready()))
            return not old & set(made.launcher.running)

        await until(done)
        await made.until_ready("m/0", "m/1")
        assert fewest == 1


@virtual
async def test_a_change_that_breaks_a_model_leaves_the_old_engines_running() -> None:
    async with cluster(machine("10.0.0.1", slots=3)) as made:
        gateway = made.gateway(wanted(bounds="3"))
        await made.until_ready("m/0", "m/1", "m/2")
        made.launcher.fails_loading["broken"] = "The file is no GGUF file."
        gateway.deploy(wanted(bounds="3", source="broken", generation=2))
        await asyncio.sleep(200)
        assert len(made.ready()) == 2
        assert "The file is no GGUF file." in made.status().why
        gateway.deploy(wanted(bounds="3", generation=3))
        await until(lambda: len(made.ready()) == 3, seconds=5)


@virtual
async def test_a_dead_engine_is_replaced_at_once_under_its_name() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="3"))
        await made.until_ready("m/0", "m/1", "m/2")
        dead = made.launcher.named("m/1")
        dead.die()
        await until(lambda: len(made.launcher.attempts) == 4, seconds=0.1)
        await made.until_ready("m/0", "m/1", "m/2", seconds=2)
        assert made.launcher.named("m/1").uid != dead.uid
        assert dead.uid in made.view.ended
        await until(lambda: len(gateway.usable()) == 3, seconds=0.2)


@virtual
async def test_engines_that_never_get_ready_are_tried_at_ever_longer_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "reverie.cluster")
    async with cluster(machine("10.0.0.1")) as made:
        made.launcher.fails_loading["file"] = "The file is no GGUF file."
        made.gateway(wanted(bounds="2"))
        await asyncio.sleep(300)
        assert 15 <= len(made.launcher.attempts) <= 30
        why = "Its engine failed on 10.0.0.1: The file is no GGUF file."
        assert made.status().why == why
        assert [r.message for r in caplog.records].count("engines are missing") == 1
        del made.launcher.fails_loading["file"]
        await made.until_ready("m/0", "m/1", seconds=40)
        assert made.status().why == ""


@virtual
async def test_a_machine_that_fails_keeps_no_other_from_being_used() -> None:
    async with cluster() as made:
        made.launcher.refuses["10.0.0.1"] = "Python 3.11.7 is needed there, not 3.12.1."
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1", seconds=5)
        assert made.launcher.where() == {"10.0.0.2": 2}


@virtual
async def test_a_start_that_hangs_holds_up_neither_another_model_nor_its_own_for_long() -> None:
    async with cluster() as made:
        made.launcher.hangs.add("10.0.0.1")
        made.gateway(wanted("a", "1"), wanted("b", "1"))
        await until(lambda: len(made.launcher.running) == 1, seconds=3)
        await until(lambda: len(made.launcher.running) == 2, seconds=70)
        assert made.ready("a") + made.ready("b")


@virtual
async def test_machines_that_cant_be_seen_keep_what_runs_there_in_use() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-3"))
        await made.until_ready("m/0")
        made.launcher.blind = True
        await asyncio.sleep(60)
        gateway.ask(waiting=3)
        await made.until_ready("m/0", "m/1", seconds=3)


@virtual
async def test_an_engine_that_is_never_ready_is_given_up_after_ten_minutes() -> None:
    async with cluster() as made:
        made.launcher.never_ready.add("10.0.0.1")
        made.gateway(wanted(bounds="1"))
        await asyncio.sleep(590)
        assert made.launcher.where() == {"10.0.0.1": 1}
        await until(lambda: made.launcher.where() == {"10.0.0.2": 1}, seconds=20)


@virtual
async def test_an_engine_that_fetches_its_file_has_hours() -> None:
    async with cluster() as made:
        made.launcher.never_ready.add("10.0.0.1")
        made.gateway(wanted(bounds="1"))
        await until(lambda: made.launcher.running)
        made.launcher.named("m/0").tell("fetching")
        await asyncio.sleep(7000)
        made.launcher.named("m/0").tell("ready")
        await made.until_ready("m/0", seconds=1)


@virtual
async def test_an_engine_that_does_not_stop_is_given_up() -> None:
    async with cluster() as made:
        made.launcher.never_stops.add("10.0.0.1")
        gateway = made.gateway(wanted(bounds="0-1", idle=1))
        gateway.ask(in_flight=1)
        await made.until_ready("m/0")
        uid = made.launcher.named("m/0").uid
        gateway.ask()
        await until(lambda: uid in made.view.ended, seconds=70)


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
async def test_a_machine_that_drains_is_remembered_by_the_next_manager() -> None:
    async with cluster() as made:
        await made.manager.drain("10.0.0.1", True)
        await made.another_manager()
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        assert made.launcher.where() == {"10.0.0.2": 2}


@virtual
async def test_a_machine_that_is_not_there_is_named_with_those_that_are() -> None:
    async with cluster() as made:
        await asyncio.sleep(1)
        with pytest.raises(
            UnknownMachine, match=r"machine 10\.0\.0\.9\. There are 10\.0\.0\.1 and"
        ):
            await made.manager.drain("10.0.0.9", True)


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
        view = await made.manager.view("g0", seen.incarnation, seen.version)
        assert view.incarnation != seen.incarnation
        await until(lambda: made.view.complete, seconds=1)
        assert made.ready() == ["m/0", "m/1", "m/2"]
        await asyncio.sleep(25)
        assert set(made.launcher.running) == before
        await made.until_ready("m/0")
        assert len(made.launcher.attempts) == 3


@virtual
async def test_a_new_manager_is_incomplete_until_its_engines_have_answered_or_five_seconds() -> (
    None
):
    async with cluster() as made:
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1")
        made.launcher.mute = True
        await made.another_manager()
        await asyncio.sleep(4)
        assert not made.view.complete
        await until(lambda: made.view.complete, seconds=2)
        assert len(made.launcher.attempts) == 2


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
async def test_what_lacks_room_says_so_once_and_starts_when_a_machine_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "reverie.cluster")
    async with cluster(machine("10.0.0.1", slots=1)) as made:
        gateway = made.gateway(wanted(bounds="1-3"))
        gateway.ask(in_flight=2, waiting=3)
        await until(lambda: made.ready() == ["m/0"])
        await asyncio.sleep(30)
        assert made.status().why == "All engine slots are taken: the machines have 1."
        assert made.status().wanted == 3
        assert [r.message for r in caplog.records].count("engines are missing") == 1
        made.launcher.all["10.0.0.2"] = machine("10.0.0.2")
        await made.until_ready("m/0", "m/1", "m/2", seconds=5)
        assert made.status().why == ""


@virtual
async def test_a_machine_that_is_not_alive_gets_nothing_and_keeps_what_it_has() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="2-4"))
        await made.until_ready("m/0", "m/1")
        made.launcher.all["10.0.0.1"] = machine("10.0.0.1", alive=False)
        await asyncio.sleep(3)
        gateway.ask(waiting=8)
        await made.until_ready("m/0", "m/1", "m/2", "m/3")
        assert made.launcher.where() == {"10.0.0.1": 1, "10.0.0.2": 3}


@virtual
async def test_what_one_engine_needs_decides_where_the_next_goes() -> None:
    async with cluster(machine("10.0.0.1", memory=10), machine("10.0.0.2", memory=9)) as made:
        made.launcher.memory = 6
        gateway = made.gateway(wanted(bounds="1-3"))
        await made.until_ready("m/0")
        gateway.ask(waiting=6)
        await asyncio.sleep(10)
        assert made.launcher.where() == {"10.0.0.1": 1, "10.0.0.2": 1}
        assert "No machine has 0.0 GiB of free memory" in made.status().why


@virtual
async def test_an_overview_has_no_key_and_the_gateways_have() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1"))
        await made.until_ready("m/0")
        await until(lambda: gateway.usable())
        assert gateway.usable()[0].info.key == "secret"
        assert made.view.engines[0].info.key == ""
        assert made.view.engines[0].info.url


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


@virtual
async def test_a_launcher_that_breaks_its_word_ends_no_loop() -> None:
    async with cluster() as made:
        launcher, good = made.launcher, made.launcher.start

        async def bad(*_: object) -> object:
            raise ValueError("a bug")

        launcher.start = bad  # type: ignore[method-assign,assignment]
        made.gateway(wanted(bounds="1"))
        await asyncio.sleep(3)
        assert made.status().why.endswith("It can't be started: ValueError.")
        launcher.start = good  # type: ignore[method-assign]
        await made.until_ready("m/0", seconds=5)
        assert isinstance(made.manager, Manager)
