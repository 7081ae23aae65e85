"""What fails is replaced, not tried without end, and holds up nothing else."""

from __future__ import annotations

import asyncio
import logging

import pytest

from reverie import background
from reverie.cluster.manager import Manager
from reverie.cluster.roster import ModelRecord
from tests.cluster.launcher import cluster, machine, wanted
from tests.cluster.virtual import until, virtual


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
async def test_engines_that_die_as_soon_as_they_are_used_are_not_started_without_end() -> None:
    async with cluster() as made:
        made.gateway(wanted(bounds="1"))
        loop = asyncio.get_running_loop()
        end = loop.time() + 120
        while loop.time() < end:
            if made.ready():
                made.launcher.named("m/0").die("it ran out of memory")
            await asyncio.sleep(0.1)
        assert 5 <= len(made.launcher.attempts) <= 12
        assert "it ran out of memory" in made.status().why
        await made.until_ready("m/0", seconds=40)
        await asyncio.sleep(12)
        made.launcher.named("m/0").die()
        await made.until_ready("m/0", seconds=2)


@virtual
async def test_engines_that_fail_beside_one_that_is_well_are_tried_at_ever_longer_intervals() -> (
    None
):
    async with cluster(machine("10.0.0.1", slots=1)) as made:
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0")
        made.launcher.all["10.0.0.2"] = machine("10.0.0.2", slots=1)
        made.launcher.dies_loading["10.0.0.2"] = "its disk is broken"
        await asyncio.sleep(300)
        assert 10 <= len(made.launcher.attempts) <= 20
        made.launcher.dies_loading.clear()
        await made.until_ready("m/0", "m/1", seconds=40)
        await asyncio.sleep(12)
        made.launcher.named("m/1").die()
        await made.until_ready("m/0", "m/1", seconds=2)


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
        await until(lambda: made.status().why == "", seconds=1)


@virtual
async def test_a_machine_that_fails_keeps_no_other_from_being_used() -> None:
    async with cluster() as made:
        made.launcher.refuses["10.0.0.1"] = "Python 3.11.7 is needed there, not 3.12.1."
        made.gateway(wanted(bounds="2"))
        await made.until_ready("m/0", "m/1", seconds=5)
        assert made.launcher.where() == {"10.0.0.2": 2}


@virtual
async def test_where_one_model_could_not_be_started_no_other_is_tried_soon() -> None:
    async with cluster() as made:
        made.launcher.refuses["10.0.0.1"] = "Python 3.11.7 is needed there, not 3.12.1."
        gateway = made.gateway(wanted("a", "1"))
        await made.until_ready("a/0", seconds=5)
        gateway.deploy(wanted("a", "1"), wanted("b", "2"))
        await made.until_ready("b/0", "b/1", seconds=2)
        assert {where for name, where in made.launcher.attempts if name[0] == "b"} == {"10.0.0.2"}


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
async def test_an_engine_that_fetches_its_file_has_longer() -> None:
    async with cluster() as made:
        made.launcher.never_ready.add("10.0.0.1")
        made.gateway(wanted(bounds="1"))
        await until(lambda: made.launcher.running)
        made.launcher.named("m/0").tell("fetching")
        await asyncio.sleep(700)
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
async def test_a_model_that_cannot_be_decided_about_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(model: ModelRecord, now: float) -> None:
        if model.name == "a":
            raise ValueError("a bug")

    monkeypatch.setattr(ModelRecord, "recover", broken)
    async with cluster() as made:
        made.gateway(wanted("a", "1"), wanted("b", "1"))
        await made.until_ready("b/0")
        assert "cluster decisions" in background.failing()
        monkeypatch.undo()
        await made.until_ready("a/0")
        assert background.failing() == []


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
