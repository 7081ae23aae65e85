"""The memory that embedded engines share."""

from __future__ import annotations

import asyncio

import pytest

from reverie.gateway.serving.memory_budget import MIB, MemoryBudget, budget_problems


class Engine:
    """An engine that only takes memory."""

    def __init__(
        self,
        budget: MemoryBudget,
        name: str,
        memory: int,
        *,
        in_memory: bool = True,
        in_use: bool = False,
        last_used: float = 0.0,
    ) -> None:
        self.name = name
        self.memory = memory
        self.in_memory = in_memory
        self.in_use = in_use
        self.last_used = last_used
        self._budget = budget
        budget.add(self)

    async def unload(self, reason: str) -> None:
        await asyncio.sleep(0)
        if not self.in_use:
            self.in_memory = False
            self._budget.notify()


def newcomer(budget: MemoryBudget, memory: int) -> Engine:
    """An engine that a request waits for."""
    return Engine(budget, "new", memory, in_memory=False, in_use=True)


async def test_what_fits_evicts_nobody() -> None:
    budget = MemoryBudget(10)
    other, new = Engine(budget, "a", 6), newcomer(budget, 4)
    assert await budget.make_room(new)
    assert (other.in_memory, new.in_memory) == (True, True)


async def test_without_a_limit_everything_fits() -> None:
    budget = MemoryBudget(0)
    other, new = Engine(budget, "a", 10**12), newcomer(budget, 10**12)
    assert await budget.make_room(new)
    assert other.in_memory


async def test_the_least_recently_used_idle_engines_are_evicted_and_no_more_than_needed() -> None:
    budget = MemoryBudget(10)
    oldest = Engine(budget, "oldest", 3, last_used=1)
    used = Engine(budget, "used", 1, last_used=0, in_use=True)
    middle = Engine(budget, "middle", 3, last_used=2)
    latest = Engine(budget, "latest", 3, last_used=3)
    assert await budget.make_room(newcomer(budget, 5))
    assert [e.in_memory for e in (oldest, used, middle, latest)] == [False, True, False, True]


async def test_while_all_others_are_in_use_it_waits_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    budget = MemoryBudget(10)
    one, two = (Engine(budget, name, 5, in_use=True) for name in "ab")
    waiting = asyncio.create_task(budget.make_room(newcomer(budget, 5)))
    for _ in range(3):
        budget.notify()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not waiting.done()
    assert caplog.messages == ["no memory for a model"]
    two.in_use = False
    budget.notify()
    assert await waiting
    assert (one.in_memory, two.in_memory) == (True, False)


async def test_it_gives_up_once_no_request_waits_for_it() -> None:
    budget = MemoryBudget(10)
    Engine(budget, "a", 10, in_use=True)
    new = newcomer(budget, 5)
    waiting = asyncio.create_task(budget.make_room(new))
    await asyncio.sleep(0)
    new.in_use = False
    budget.notify()
    assert not await waiting
    assert not new.in_memory


async def test_an_engine_that_is_gone_for_good_makes_room() -> None:
    budget = MemoryBudget(10)
    other = Engine(budget, "a", 10, in_use=True)
    waiting = asyncio.create_task(budget.make_room(newcomer(budget, 5)))
    await asyncio.sleep(0)
    budget.remove(other)
    assert await waiting


async def test_two_newcomers_never_take_the_same_room() -> None:
    budget = MemoryBudget(10)
    Engine(budget, "idle", 10)
    first, second = newcomer(budget, 6), newcomer(budget, 6)
    tasks = [asyncio.create_task(budget.make_room(one)) for one in (first, second)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert [first.in_memory, second.in_memory].count(True) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_model_larger_than_the_budget_can_never_fit() -> None:
    needs = {"a": 100 * MIB + 1, "b": 10}
    [problem] = budget_problems(100 * MIB, needs, set())
    assert problem == "model a: it needs about 101 MiB, and server.memory_budget_mib is 100"


def test_warm_models_must_fit_together() -> None:
    needs = dict.fromkeys("abc", 60 * MIB)
    [problem] = budget_problems(100 * MIB, needs, {"a", "b"})
    assert "about 120 MiB together" in problem
    assert "warm = false" in problem
    assert budget_problems(100 * MIB, needs, {"a"}) == []
    assert budget_problems(0, needs, {"a", "b"}) == []
