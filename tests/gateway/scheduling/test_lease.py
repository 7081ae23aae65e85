"""What a lease knows, and what is learned from what its holder reports."""

from __future__ import annotations

import asyncio

import pytest

from reverie.errors import BackendError
from reverie.gateway.scheduling.backend_state import FAILURES, LONGEST_WAIT
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, pool, queued, turns


async def test_a_lease_says_where_its_request_entered_the_queue() -> None:
    shared = pool(FakeBackend("a"))
    slot = await shared.acquire(slot_request(10, key="flood"))
    assert slot.position == 0
    flood = await queued(shared, 3, tokens=10, key="flood")
    (light,) = await queued(shared, tokens=10, key="light")
    await turns(slot, [*flood, light], 4)
    assert [task.result().position for task in flood] == [1, 2, 3]
    assert light.result().position == 2


async def test_a_lease_that_is_released_without_a_report_says_nothing() -> None:
    backend = FakeBackend("a")
    clocked = PoolOnClock(backend, FakeBackend("b"))
    for _ in range(2):
        for _ in range(FAILURES - 1):
            await clocked.end(BackendError("no"), {"b"})
            with pytest.raises(asyncio.CancelledError):
                with await clocked.pool.acquire(slot_request(excluded={"b"})):
                    raise asyncio.CancelledError
            (await clocked.pool.acquire(slot_request(excluded={"b"}))).release()
        assert clocked.circuit(backend) == "closed"
        await clocked.end(BackendError("no"), {"b"})
        assert clocked.circuit(backend) == "open"
        clocked.now += LONGEST_WAIT
        trial = await clocked.pool.acquire(slot_request())
        trial.release()
        assert clocked.circuit(backend) == "half_open"
        with await clocked.pool.acquire(slot_request()) as lease:
            lease.succeeded()


async def test_speed_is_measured_from_whole_answers_alone() -> None:
    clocked = PoolOnClock(FakeBackend("a"))
    [state] = clocked.pool.states
    for failing in (True, False):
        with await clocked.pool.acquire(slot_request()) as lease:
            clocked.now += 0.5
            lease.on_batch()
            clocked.now += 2.0
            if failing:
                lease.failed(BackendError("no"))
            else:
                lease.succeeded(tokens=21)
        if failing:
            assert state.speed.expected(clocked.now) is None
    assert (state.speed.ttft, state.speed.per_token) == (0.5, 0.1)


async def test_an_answer_of_one_token_says_nothing_of_the_pace() -> None:
    clocked = PoolOnClock(FakeBackend("a"))
    with await clocked.pool.acquire(slot_request()) as lease:
        lease.on_batch()
        lease.succeeded(tokens=1)
    assert clocked.pool.states[0].speed.per_token is None


async def test_an_answer_whose_client_read_slowly_says_nothing_of_the_pace() -> None:
    clocked = PoolOnClock(FakeBackend("a"))
    with await clocked.pool.acquire(slot_request()) as lease:
        clocked.now += 0.5
        lease.on_batch()
        clocked.now += 2.0
        lease.succeeded(tokens=21, client_blocked=1.0)
    speed = clocked.pool.states[0].speed
    assert (speed.ttft, speed.per_token) == (0.5, None)
