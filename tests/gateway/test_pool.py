from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from reverie.errors import BackendError, ModelLoading, Overloaded
from reverie.events import Event
from reverie.gateway.pool import FAILURE_COOLDOWN, Pool
from reverie.request import GenerateRequest


class FakeBackend:
    """A backend that only has a state: pools never generate."""

    recovers = False

    def __init__(
        self, name: str, slots: int = 1, *, ready: bool = True, capacity: int | None = None
    ) -> None:
        self.capacity = capacity
        self.name = name
        self.slots = slots
        self.ready = ready
        self.failure: str | None = None

    def check(self, request: GenerateRequest) -> None: ...

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Event], None]:
        raise NotImplementedError
        yield []

    async def start(self, on_change: Callable[[], None]) -> None: ...

    async def stop(self) -> None: ...


def pool(*backends: FakeBackend, queue_size: int = 10, queue_timeout: float = 5) -> Pool:
    return Pool("m", backends, queue_size=queue_size, queue_timeout=queue_timeout)


async def queued(pool: Pool, count: int = 1) -> list[asyncio.Task[object]]:
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(pool.acquire())  # type: ignore[arg-type]
        for _ in range(count)
    ]
    await asyncio.sleep(0)
    return tasks


async def test_the_least_busy_backend_is_chosen() -> None:
    small, large = FakeBackend("small", 2), FakeBackend("large", 4)
    shared = pool(small, large)
    chosen = [(await shared.acquire()).backend.name for _ in range(6)]
    assert sorted(chosen) == ["large"] * 4 + ["small"] * 2
    assert chosen[1] == "large"


async def test_a_released_slot_goes_to_whoever_waits_longest() -> None:
    shared = pool(FakeBackend("a"))
    lease = await shared.acquire()
    first, second = await queued(shared, 2)
    lease.release()
    lease.release()  # idempotent
    await asyncio.wait_for(first, 1)
    assert not second.done()
    assert (shared.in_flight, shared.waiting) == (1, 1)
    second.cancel()


async def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    shared = pool(FakeBackend("a"), queue_size=1)
    await shared.acquire()
    (waiting,) = await queued(shared)
    with pytest.raises(Overloaded) as caught:
        await shared.acquire()
    assert int(caught.value.headers["Retry-After"]) >= 1
    waiting.cancel()


async def test_a_wait_ends_at_its_deadline_and_leaves_nothing_behind() -> None:
    shared = pool(FakeBackend("a"), queue_timeout=0.01)
    lease = await shared.acquire()
    with pytest.raises(Overloaded):
        await shared.acquire()
    assert shared.waiting == 0
    lease.release()
    assert shared.in_flight == 0


async def test_a_wait_for_a_loading_model_ends_as_model_loading() -> None:
    shared = pool(FakeBackend("a", ready=False), queue_timeout=0.01)
    with pytest.raises(ModelLoading):
        await shared.acquire()


async def test_a_backend_that_becomes_ready_serves_those_who_wait() -> None:
    backend = FakeBackend("a", slots=2, ready=False)
    shared = pool(backend)
    tasks = await queued(shared, 3)
    backend.ready = True
    shared.wake()
    await asyncio.wait(tasks[:2], timeout=1)
    assert [task.done() for task in tasks] == [True, True, False]
    tasks[2].cancel()


async def test_cancelling_a_waiter_takes_it_out_of_the_queue() -> None:
    shared = pool(FakeBackend("a"))
    lease = await shared.acquire()
    (waiting,) = await queued(shared)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert shared.waiting == 0
    lease.release()
    assert shared.in_flight == 0


async def test_a_slot_granted_in_the_turn_of_its_cancellation_is_given_back() -> None:
    shared = pool(FakeBackend("a"))
    lease = await shared.acquire()
    (waiting,) = await queued(shared)
    lease.release()  # grants the slot …
    waiting.cancel()  # … to a waiter that is cancelled before it can take it
    await asyncio.gather(waiting, return_exceptions=True)
    assert shared.in_flight == 0
    (await shared.acquire()).release()


async def test_a_backend_that_failed_is_avoided_for_a_while_but_not_left_out() -> None:
    now = 100.0
    first, second = FakeBackend("first", 2), FakeBackend("second", 2)
    shared = Pool("m", [first, second], queue_size=1, queue_timeout=1, clock=lambda: now)
    shared.failed(first)
    assert [(await shared.acquire()).backend.name for _ in range(3)] == [
        "second",
        "second",
        "first",
    ]
    now += FAILURE_COOLDOWN
    shared = Pool("m", [first, second], queue_size=1, queue_timeout=1, clock=lambda: now)
    assert (await shared.acquire()).backend.name == "first"


async def test_an_excluded_backend_is_never_granted() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    shared = pool(first, second)
    lease = await shared.acquire(excluded={"first"})
    assert lease.backend.name == "second"
    waiting = asyncio.create_task(shared.acquire(excluded={"first"}))
    await asyncio.sleep(0)
    assert (await shared.acquire()).backend.name == "first"  # not held up by the one ahead
    lease.release()
    assert (await waiting).backend.name == "second"


async def test_a_model_that_can_never_be_served_fails_at_once_for_all() -> None:
    backend = FakeBackend("a", ready=False)
    shared = pool(backend)
    (waiting,) = await queued(shared)
    backend.failure = "the file is gone"
    shared.wake()
    for attempt in (waiting, asyncio.create_task(shared.acquire())):
        with pytest.raises(BackendError) as caught:
            await attempt
        assert "file" not in caught.value.message
        assert caught.value.reason == "the file is gone"


async def test_requests_run_together_only_as_far_as_their_tokens_fit() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    first = await shared.acquire(60)
    large = asyncio.create_task(shared.acquire(50))
    small = asyncio.create_task(shared.acquire(10))
    await asyncio.sleep(0)
    assert shared.waiting == 2  # the small one would fit, but doesn't overtake
    first.release()
    assert [(await task).backend.name for task in (large, small)] == ["a", "a"]


async def test_a_request_that_is_larger_than_everything_runs_alone() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    huge = await shared.acquire(1000)
    other = asyncio.create_task(shared.acquire(1))
    await asyncio.sleep(0)
    assert not other.done()
    huge.release()
    await other
