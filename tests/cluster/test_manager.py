"""Engines are there when gateways need them, and go when nobody uses them."""

from __future__ import annotations

import asyncio
import logging

import pytest
from msgspec.structs import replace

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
async def test_names_are_the_lowest_that_are_free_but_for_those_of_the_dead() -> None:
    async with cluster() as made:
        gateway = made.gateway(wanted(bounds="1-3", idle=20))
        gateway.ask(in_flight=6)
        await made.until_ready("m/0", "m/1", "m/2")
        gateway.running = {made.launcher.named(f"m/{n}").uid: 1 for n in (1, 2)}
        gateway.ask(in_flight=4)
        await made.until_ready("m/1", "m/2")
        made.launcher.named("m/2").die()
        await made.until_ready("m/1", "m/2", seconds=2)
        gateway.running = {}
        gateway.ask(in_flight=1)
        made.launcher.named("m/2").die()  # and isn't needed any more
        await asyncio.sleep(5)
        assert made.ready() == ["m/1"]
        gateway.ask(in_flight=4)
        await made.until_ready("m/0", "m/1", seconds=2)


@virtual
async def test_a_model_without_an_engine_gets_room_before_one_that_has_some() -> None:
    async with cluster(machine("10.0.0.1", slots=1)) as made:
        gateway = made.gateway(wanted("a", "1-3"), wanted("b", "1"))
        gateway.ask(waiting=9, model="a")
        await until(lambda: made.ready("a") == ["a/0"])
        made.launcher.all["10.0.0.2"] = machine("10.0.0.2", slots=1)
        await until(lambda: made.ready("b") == ["b/0"], seconds=5)


@virtual
async def test_room_that_was_given_away_since_the_last_look_is_not_given_twice() -> None:
    async with cluster(machine("10.0.0.1", slots=4)) as made:
        launcher = made.launcher
        launcher.seconds_to_start = 1.0
        launcher._free = lambda one: replace(one, free_slots=1 - len(launcher.running))  # type: ignore[method-assign]
        await asyncio.sleep(2.5)  # others use the rest of it
        gateway = made.gateway(wanted(bounds="1-4"))
        await asyncio.sleep(0.03)
        gateway.ask(waiting=2)
        gateway.ask(waiting=8)
        await asyncio.sleep(0.1)
        assert len(launcher.attempts) == 1


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
