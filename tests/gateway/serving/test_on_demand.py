"""An engine that is loaded on demand. ``faults/test_on_demand`` does it with the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from reverie.background import FAILURES
from reverie.errors import ModelError
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.gateway.serving.on_demand import OnDemandModel
from tests.gateway.serving.fake_engine import FakeEngine


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def on_demand(
    engine: FakeEngine, budget: MemoryBudget | None = None, *, idle_unload: float = 0
) -> OnDemandModel:
    model = OnDemandModel(
        "m",
        engine,  # type: ignore[arg-type]
        budget or MemoryBudget(0),
        idle_unload=idle_unload,
        on_change=lambda: None,
    )
    await model.check()
    return model


async def loaded(engine: FakeEngine, model: OnDemandModel) -> None:
    model.load()
    await until(lambda: engine.starts > engine.stops)
    engine.become_ready()


@contextmanager
def held(model: OnDemandModel) -> Iterator[None]:
    model.hold()
    try:
        yield
    finally:
        model.release()


async def test_requests_load_it_once_however_many_ask() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    assert model.is_cold
    for _ in range(20):
        model.hold()
        model.load_for_request()
    assert (model.is_cold, model.loading_on_request, model.in_use) == (False, True, True)
    await until(lambda: engine.starts == 1)
    engine.become_ready()
    assert not model.loading_on_request
    model.load_for_request()
    await asyncio.sleep(0.01)
    assert (engine.starts, engine.stops) == (1, 0)


async def test_it_is_unloaded_when_idle_and_loaded_again() -> None:
    engine = FakeEngine()
    model = await on_demand(engine, idle_unload=0.01)
    for times in (1, 2):
        await loaded(engine, model)
        await until(lambda times=times: engine.stops == times)  # type: ignore[misc]
        assert model.is_cold
        assert not model.in_memory


async def test_it_is_not_unloaded_while_a_request_holds_it() -> None:
    engine = FakeEngine()
    model = await on_demand(engine, idle_unload=0.01)
    model.hold()
    await loaded(engine, model)
    await model.unload("room for another")
    await asyncio.sleep(0.05)
    assert engine.stops == 0
    model.release()
    await until(lambda: engine.stops == 1)


async def test_a_shorter_idle_time_holds_at_once() -> None:
    engine = FakeEngine()
    model = await on_demand(engine, idle_unload=3600)
    await loaded(engine, model)
    model.set_idle_unload(0.01)
    await until(lambda: engine.stops == 1)


async def test_a_request_that_comes_while_it_is_unloaded_has_it_loaded_again() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    await loaded(engine, model)
    engine.may_stop.clear()
    unloading = asyncio.create_task(model.unload("idle"))
    await until(lambda: model.is_cold)
    model.hold()
    model.load_for_request()
    engine.may_stop.set()
    await until(lambda: engine.starts == 2)
    await unloading
    assert (model.in_memory, model.is_cold) == (True, False)


async def test_cancelling_an_unload_cancels_the_wait_only() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    await loaded(engine, model)
    engine.may_stop.clear()
    unloading = asyncio.create_task(model.unload("room for another"))
    await until(lambda: model.is_cold)
    unloading.cancel()
    engine.may_stop.set()
    await until(lambda: engine.stops == 1)
    assert not model.in_memory


async def test_only_use_makes_it_recently_used() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    before = model.last_used
    await asyncio.sleep(0.002)
    model.hold()
    model.release()  # the request was refused before it needed the engine
    assert model.last_used == before
    model.hold()
    model.load_for_request()
    used = model.last_used
    assert used > before
    await asyncio.sleep(0.002)
    model.release()
    assert model.last_used > used


async def test_a_load_that_fails_gives_the_memory_back(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    engine.refuses = True
    model.load()
    await until(lambda: model.is_cold)
    assert not model.in_memory
    assert caplog.messages == ["model not loaded"]
    with pytest.raises(ModelError):
        await model.start()
    assert not model.in_memory


async def test_a_stop_ends_a_load_and_leaves_the_budget_to_others() -> None:
    budget = MemoryBudget(100)
    in_use, waiting, other = FakeEngine(), FakeEngine(), FakeEngine()
    first = await on_demand(in_use, budget)
    first.hold()
    await loaded(in_use, first)
    second = await on_demand(waiting, budget)
    second.hold()
    second.load_for_request()
    await asyncio.sleep(0.01)
    assert second.not_ready_reason().startswith("The model still waits for memory")
    await second.stop()
    assert (waiting.starts, second.is_cold) == (0, True)
    await first.stop()
    third = await on_demand(other, budget)
    await loaded(other, third)
    assert third.in_memory


async def test_a_client_is_told_how_long_a_load_takes() -> None:
    engine = FakeEngine(memory=3_000_000_000)
    model = await on_demand(engine)
    assert model.seconds_to_ready() == 11  # by its size
    await loaded(engine, model)
    assert model.seconds_to_ready() is None
    await model.unload("idle")
    assert model.seconds_to_ready() == 5  # the last load was quick, but there may be no room


async def test_an_engine_that_has_failed_takes_no_memory() -> None:
    engine = FakeEngine(memory=7)
    model = await on_demand(engine)
    assert model.memory == 7
    engine.failure = "It ended with status 1."
    assert model.memory == 0


async def test_an_engine_that_can_not_be_evicted_costs_one_try_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = MemoryBudget(100)
    old_engine, new_engine = FakeEngine(), FakeEngine()
    old, new = await on_demand(old_engine, budget), await on_demand(new_engine, budget)
    await loaded(old_engine, old)
    before = FAILURES["model unload"]

    async def fail() -> None:
        raise OSError("injected")

    with monkeypatch.context() as broken:
        broken.setattr(old_engine, "stop", fail)
        with held(new):
            new.load_for_request()
            await until(lambda: FAILURES["model load"] > 0 and new._loading is None)
        assert (FAILURES["model unload"], new_engine.starts) == (before + 1, 0)
    with held(new):
        new.load_for_request()
        await until(lambda: new_engine.starts == 1)
    assert old_engine.stops == 1


async def test_an_operator_s_unload_ends_a_load_that_nobody_needs() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    model.load_for_operator()
    assert await model.unload_if_free("an operator")  # as soon as it has begun
    assert (model.is_cold, model.in_memory) == (True, False)
    model.load_for_operator()
    await asyncio.sleep(0.01)
    assert await model.unload_if_free("an operator")
    assert (model.is_cold, model.in_memory, engine.ready) == (True, False, False)
    await loaded(engine, model)
    assert await model.unload_if_free("an operator")
    assert await model.unload_if_free("an operator")
    assert model.is_cold


async def test_an_operator_s_unload_is_refused_while_a_request_holds_the_model() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    await loaded(engine, model)
    with held(model):
        assert not await model.unload_if_free("an operator")
        assert (engine.ready, model.holders) == (True, 1)


async def test_a_request_that_comes_while_an_operator_unloads_gets_the_engine_back() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    await loaded(engine, model)
    engine.may_stop.clear()
    unloading = asyncio.create_task(model.unload_if_free("an operator"))
    await asyncio.sleep(0.01)
    with held(model):
        model.load_for_request()
        engine.may_stop.set()
        assert await unloading
        await until(lambda: engine.starts == 2)
        engine.become_ready()


async def test_a_request_that_comes_while_a_load_is_cancelled_has_it_loaded_again() -> None:
    engine = FakeEngine()
    budget = MemoryBudget(100)
    other_engine = FakeEngine()
    other, model = await on_demand(other_engine, budget), await on_demand(engine, budget)
    await loaded(other_engine, other)
    with held(other):
        model.hold()  # it waits for memory
        model.load_for_operator()
        await asyncio.sleep(0.01)
        model.release()
        unloading = asyncio.create_task(model.unload_if_free("an operator"))
        await asyncio.sleep(0)
        model.hold()
        model.load_for_request()
        await unloading
        assert not model.is_cold
    await until(lambda: engine.starts == 1)
    model.release()


async def test_a_load_that_fails_says_why_until_it_is_tried_again() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    engine.refuses = True
    model.load_for_operator()
    await until(lambda: model.is_cold)
    assert model.load_failure == "It is no model."
    engine.refuses = False
    model.load()
    await until(lambda: engine.starts == 1)
    assert model.load_failure is None


async def test_a_load_that_finds_no_memory_says_so() -> None:
    engine, other_engine, budget = FakeEngine(), FakeEngine(), MemoryBudget(100)
    other, model = await on_demand(other_engine, budget), await on_demand(engine, budget)
    await loaded(other_engine, other)
    with held(other):
        model.load_for_operator()
        await until(lambda: model.is_cold)
    assert model.load_failure == "models that are in use take the memory"


async def test_an_engine_that_failed_for_good_is_loaded_again_when_an_operator_asks() -> None:
    engine = FakeEngine()
    model = await on_demand(engine)
    await loaded(engine, model)
    engine.ready, engine.failure = False, "It died."
    model.load()
    assert model._loading is None  # no request can ask for that
    model.load_for_operator()
    await until(lambda: engine.starts == 2)
    assert engine.failure is None
    engine.become_ready()
    engine.ready, engine.failure = False, "It died."
    assert await model.unload_if_free("an operator")
    assert (model.is_cold, engine.failure) == (True, None)


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_load_that_is_ended_while_its_engine_stops_is_begun_anew_for_the_next_request(
    refuses: bool,
) -> None:
    class Slow(FakeEngine):
        begun = asyncio.Event()

        async def start(self, on_change: Callable[[], None]) -> None:
            if not self.begun.is_set():
                self.begun.set()
                await asyncio.sleep(0 if refuses else 3600)
            await super().start(on_change)

    engine = Slow()
    engine.refuses = refuses
    model = OnDemandModel(
        "m",
        engine,  # type: ignore[arg-type]
        MemoryBudget(0),
        idle_unload=0,
        on_change=lambda: None,
    )
    engine.may_stop.clear()
    model.load(on_request=False)
    await engine.begun.wait()
    unloads = []
    for _ in range(1 if refuses else 2):
        await asyncio.sleep(0.01)
        unloads.append(asyncio.create_task(model.unload_if_free("an operator")))
    await asyncio.sleep(0)
    engine.refuses = False
    with held(model):
        model.load_for_request()
        await asyncio.sleep(0.01)
        engine.may_stop.set()
        await asyncio.gather(*unloads)
        await until(lambda: engine.starts == 1)
        assert model.in_memory
