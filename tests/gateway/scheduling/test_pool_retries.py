"""Requests that a backend failed find room, come first, and wait for backends to recover."""

from __future__ import annotations

import asyncio

import pytest

from reverie.errors import BackendError, ModelLoading, Overloaded
from reverie.gateway.scheduling.pool import RESUME_GRACE
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, end, pool, queued, turns


async def test_a_full_queue_has_room_for_a_retry_and_lets_it_go_first() -> None:
    shared = pool(FakeBackend("a"), queue_size=1)
    running = await shared.acquire(slot_request())
    (resuming,) = await queued(shared, key="one")
    again = asyncio.create_task(shared.acquire(slot_request(key="one", failed_on={"x"})))
    await asyncio.sleep(0)
    assert shared.waiting == 2
    with pytest.raises(Overloaded, match="the queue is full"):
        await shared.acquire(slot_request(key="one"))
    running.release()
    lease = await asyncio.wait_for(again, 1)
    assert lease.position == 1
    assert not resuming.done()
    lease.release()
    (await asyncio.wait_for(resuming, 1)).release()


async def test_a_retry_makes_room_for_nobody() -> None:
    shared = pool(FakeBackend("first"), FakeBackend("second"), queue_size=2)
    for _ in range(2):
        await shared.acquire(slot_request())
    again = [
        asyncio.create_task(
            shared.acquire(slot_request(excluded={"first"}, key="flood", failed_on={"x"}))
        )
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    resuming = await queued(shared, 2, key="flood")
    light = await queued(shared, key="light")
    with pytest.raises(Overloaded, match="Your key has 2"):
        await asyncio.wait_for(resuming.pop(), 1)
    assert not any(task.done() for task in again)
    await end([*again, *resuming, *light])


async def test_a_retry_goes_before_those_that_had_no_turn_yet() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    shared = pool(first, second)
    await shared.acquire(slot_request())
    slot = await shared.acquire(slot_request())
    assert slot.backend is second
    (fresh,) = await queued(shared)
    again = asyncio.create_task(shared.acquire(slot_request(excluded={"first"}, failed_on={"x"})))
    await asyncio.sleep(0)
    (late,) = await queued(shared)
    slot.release()
    lease = await asyncio.wait_for(again, 1)
    assert (lease.position, fresh.done()) == (1, False)
    assert await turns(lease, [fresh, late], 2) == ["", ""]
    assert (fresh.result().backend, fresh.result().position) == (second, 1)
    assert (late.result().backend, late.result().position) == (second, 3)


async def test_a_large_request_with_an_exclusion_is_not_overtaken_on_what_is_left_to_it() -> None:
    first, second = FakeBackend("first", 1), FakeBackend("second", 8, capacity=100)
    shared = pool(first, second)
    running = await shared.acquire(slot_request(60, excluded={"first"}))
    again = asyncio.create_task(
        shared.acquire(slot_request(50, excluded={"first"}, failed_on={"x"}))
    )
    await asyncio.sleep(0)
    assert (await shared.acquire(slot_request(10))).backend is first
    (small,) = await queued(shared, tokens=10)
    assert not small.done()  # it would fit beside the one that runs, but not beside the next
    running.release()
    assert (await asyncio.wait_for(again, 1)).backend is second
    assert (await asyncio.wait_for(small, 1)).backend is second


async def test_a_queue_full_of_requests_that_exclude_a_backend_keeps_nobody_from_it() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    shared = pool(first, second, queue_size=1)
    await shared.acquire(slot_request(excluded={"first"}))
    again = asyncio.create_task(shared.acquire(slot_request(excluded={"first"}, failed_on={"x"})))
    await asyncio.sleep(0)
    lease = await shared.acquire(slot_request())
    assert (lease.backend, lease.position) == (first, 0)
    again.cancel()


async def test_a_retry_goes_to_a_backend_whose_circuit_is_open_but_not_to_one_that_is_down() -> (
    None
):
    backends = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(*backends)
    for backend in backends:
        await clocked.open(backend)
    assert clocked.pool.can_take(slot_request(excluded={"one"}, failed_on={"x"}))
    assert (
        await clocked.pool.acquire(slot_request(excluded={"one"}, failed_on={"x"}))
    ).backend is backends[1]
    for backend in backends:
        clocked.probe(backend, good=False)
    assert not clocked.pool.can_take(slot_request(excluded={"one"}, failed_on={"x"}))
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await clocked.pool.acquire(slot_request(excluded={"one"}, failed_on={"x"}))


async def test_an_answer_that_was_cut_waits_for_backends_that_are_down() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(*backends)
    for backend in backends:
        clocked.probe(backend, good=False)
    cut = slot_request(failed_on={"two"}, resuming=True)
    assert clocked.pool.can_take(cut)
    (waiting,) = await queued(clocked.pool, failed_on={"two"}, resuming=True)
    assert not waiting.done()
    assert all(
        backend.wanted_probes for backend in backends
    )  # they are asked whether they are back
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await clocked.pool.acquire(slot_request())
    clocked.probe(backends[1], good=True)
    assert (await asyncio.wait_for(waiting, 1)).backend is backends[1]


async def test_an_answer_that_was_cut_waits_for_backends_that_are_down_for_its_grace() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(*backends)
    for backend in backends:
        clocked.probe(backend, good=False)
    (waiting,) = await queued(clocked.pool, failed_on={"two"}, resuming=True)
    clocked.now += RESUME_GRACE - 0.1
    clocked.pool.wake()
    assert not waiting.done()
    clocked.now += 0.1
    clocked.pool.wake()
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await asyncio.wait_for(waiting, 1)


async def test_an_answer_that_was_cut_gives_the_backend_that_failed_it_time_to_recover() -> None:
    only = FakeBackend("only", 4)
    clocked = PoolOnClock(only)
    await clocked.end(BackendError("no"))
    (waiting,) = await queued(clocked.pool, failed_on={"only"}, resuming=True)
    assert not waiting.done()
    clocked.probe(only, good=True)  # or its cooldown is over
    assert (await asyncio.wait_for(waiting, 1)).backend is only


async def test_an_answer_that_was_cut_waits_out_the_pause_of_a_busy_backend() -> None:
    down, busy = FakeBackend("down", 4), FakeBackend("busy", 4)
    clocked = PoolOnClock(down, busy)
    clocked.probe(down, good=False)
    clocked.probe(busy, good=True)
    await clocked.end(Overloaded("busy", retry_after=2.0))
    (waiting,) = await queued(clocked.pool, failed_on={"busy", "down"}, resuming=True)
    assert not waiting.done()
    clocked.now += 2.0
    clocked.pool.wake()
    assert (await asyncio.wait_for(waiting, 1)).backend is busy


async def test_newcomers_are_not_held_up_by_an_answer_that_waits_for_a_backend_to_recover() -> None:
    clocked = PoolOnClock(FakeBackend("only", 4))
    await clocked.end(BackendError("no"))
    (waiting,) = await queued(clocked.pool, failed_on={"only"}, resuming=True)
    await asyncio.wait_for(clocked.pool.acquire(slot_request()), 1)
    assert not waiting.done()
    waiting.cancel()


async def test_an_answer_that_was_cut_waits_until_its_own_deadline() -> None:
    backend = FakeBackend("a", ready=False)
    shared = pool(backend, queue_timeout=0.01)
    waiting = asyncio.create_task(shared.acquire(slot_request(failed_on={"x"}, resuming=True)))
    with pytest.raises(ModelLoading):
        await shared.acquire(slot_request())
    backend.ready = True
    shared.wake()
    (await asyncio.wait_for(waiting, 1)).release()
