"""Backends that their operator takes out of service."""

from __future__ import annotations

import pytest

from reverie.errors import BackendError, Overloaded
from reverie.gateway.scheduling.pool import Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, end, pool, queued


def drain(pool: Pool, *backends: FakeBackend) -> None:
    for backend in backends:
        assert pool.set_draining(backend.name, True) is not None


def resume(pool: Pool, backend: FakeBackend) -> None:
    assert pool.set_draining(backend.name, False) is not None


async def test_a_draining_backend_gets_no_request_and_ends_what_it_has() -> None:
    a, b = FakeBackend("a", slots=4), FakeBackend("b", slots=1)
    served = pool(a, b)
    running = await served.acquire(slot_request(excluded={"b"}))
    drain(served, a)
    assert running.backend is a
    with await served.acquire(slot_request()) as lease:
        assert lease.backend is b
        waiting = await queued(served)
        assert not waiting[0].done()  # it waits for b, though a has room
        running.succeeded()
        running.release()
        assert served.in_flight_on(a) == 0
    assert (await waiting[0]).backend is b
    await end(waiting)


async def test_what_waits_is_served_as_soon_as_a_backend_is_back() -> None:
    a, b = FakeBackend("a"), FakeBackend("b")
    served = pool(a, b)
    drain(served, a)
    with await served.acquire(slot_request()):
        waiting = await queued(served)
        resume(served, a)
        assert (await waiting[0]).backend is a
        await end(waiting)


@pytest.mark.parametrize("resuming", [False, True])
async def test_while_all_drain_nobody_waits(resuming: bool) -> None:
    a, b = FakeBackend("a"), FakeBackend("b")
    served = pool(a, b)
    leases = [await served.acquire(slot_request()) for _ in range(2)]
    waiting = await queued(served, 3, resuming=resuming)
    drain(served, a)
    assert not any(task.done() for task in waiting)
    drain(served, b)
    assert served.waiting == 0
    for task in waiting:
        with pytest.raises(Overloaded, match="its operator lets no new request to it"):
            await task
    with pytest.raises(Overloaded) as refused:
        await served.acquire(slot_request(resuming=resuming))
    assert refused.value.retry_after == 30
    assert (served.drained, served.ready) == (True, False)
    for lease in leases:
        lease.succeeded()
        lease.release()
    resume(served, b)
    with await served.acquire(slot_request()) as lease:
        assert lease.backend is b


async def test_a_request_is_not_tried_again_where_only_a_draining_backend_is_left() -> None:
    a, b = FakeBackend("a"), FakeBackend("b")
    served = pool(a, b)
    drain(served, a)
    retry = slot_request(excluded={"b"}, failed_on={"b"})
    assert not served.can_take(retry)
    with pytest.raises(Overloaded):
        await served.acquire(retry)


async def test_the_one_that_is_left_in_service_is_tried_whatever_its_health() -> None:
    a, b = FakeBackend("a"), FakeBackend("b")
    clocked = PoolOnClock(a, b)
    await clocked.open(b)
    drain(clocked.pool, a)
    assert await clocked.end(None) == "b"


async def test_a_circuit_stays_as_it_is_and_gets_no_trial() -> None:
    a, b = FakeBackend("a"), FakeBackend("b")
    clocked = PoolOnClock(a, b)
    await clocked.open(a)
    drain(clocked.pool, a)
    clocked.now += 100
    (state,) = (s for s in clocked.pool.states if s.backend is a)
    assert (state.circuit, state.reason) == ("half_open", "draining")
    for _ in range(3):
        assert await clocked.end(None, {"nobody"}) == "b"
    assert state.circuit == "half_open"
    resume(clocked.pool, a)
    assert state.reason == "trial_due"


async def test_an_answer_that_broke_off_waits_for_its_backend_rather_than_use_a_draining_one() -> (
    None
):
    a, b = FakeBackend("a"), FakeBackend("b")
    clocked = PoolOnClock(a, b)
    assert await clocked.end(BackendError("it broke off"), {"a"}) == "b"
    drain(clocked.pool, a)
    waiting = await queued(clocked.pool, resuming=True, failed_on={"b"})
    assert not waiting[0].done()
    clocked.probe(b, good=True)
    assert (await waiting[0]).backend is b
    await end(waiting)


async def test_a_backend_that_there_isn_t_changes_nothing() -> None:
    served = pool(FakeBackend("a"))
    assert served.set_draining("b", True) is None
    assert not served.drained
