"""A pool's backends come and go under its requests."""

from __future__ import annotations

import asyncio

import pytest

from reverie.backends.base import Backend
from reverie.errors import ConnectionLost, ModelLoading, Overloaded
from reverie.gateway.scheduling.pool import Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, end, queued

EXAMPLE = FakeBackend("example")


def elastic(
    *backends: FakeBackend, queue_timeout: float = 5, clock: PoolOnClock | None = None
) -> Pool:
    pool = Pool(
        "m",
        (),
        queue_size=10,
        queue_timeout=queue_timeout,
        examples=[EXAMPLE],
        **({} if clock is None else {"clock": lambda: clock.now}),
    )
    for backend in backends:
        pool.add(backend)
    return pool


def gone() -> None: ...


async def test_requests_wait_while_there_is_no_backend_and_get_the_first_that_comes() -> None:
    pool = elastic()
    tasks = await queued(pool, 3)
    assert (pool.ready, pool.drained, pool.failure, pool.waiting) == (False, False, None, 3)
    pool.add(FakeBackend("m/0", slots=2))
    await asyncio.wait(tasks[:2], timeout=1)
    assert [task.done() for task in tasks] == [True, True, False]
    pool.add(FakeBackend("m/1"))
    assert (await tasks[2]).backend.name == "m/1"
    await end(tasks)


async def test_a_wait_for_the_first_backend_ends_at_its_deadline_as_for_a_loading_model() -> None:
    pool = elastic(queue_timeout=0.01)
    pool.not_ready_reason = lambda: "The model's first engine is being started"
    pool.seconds_to_ready = lambda: 7.0
    with pytest.raises(ModelLoading, match="first engine is being started after") as caught:
        await pool.acquire(slot_request())
    assert caught.value.headers["Retry-After"] == "7"


def test_an_empty_pool_answers_every_question() -> None:
    pool = elastic()
    asked = slot_request(10, affinity=b"a")
    assert pool.within_context(10) == 10
    assert pool.fast.choose(asked) is None
    assert pool.can_take(asked)
    assert pool.seconds_to_trial(asked) is None
    assert not pool.is_drained_for(asked)
    assert pool.fast.unlike == [EXAMPLE]
    assert pool.has_choice
    pool.wake()


async def test_a_removed_backend_gets_nothing_new_and_tells_when_its_last_request_ends() -> None:
    a, b = FakeBackend("m/0", slots=2), FakeBackend("m/1", slots=9)
    pool = elastic(a)
    leases = [await pool.acquire(slot_request()) for _ in range(2)]
    pool.add(b)
    ended: list[str] = []
    pool.remove("m/0", lambda: ended.append("m/0"))
    others = [await pool.acquire(slot_request(affinity=bytes([n]))) for n in range(5)]
    assert {lease.backend.name for lease in others} == {"m/1"}
    assert pool.in_flight == 7
    leases[0].release()
    assert (ended, pool.in_flight) == ([], 6)
    leases[1].release()
    assert (ended, pool.in_flight) == (["m/0"], 5)
    for lease in others:
        lease.release()
    assert pool.in_flight == 0
    pool.remove("m/1", lambda: ended.append("m/1"))
    assert ended == ["m/0", "m/1"]  # at once: nothing ran there


async def test_what_comes_free_on_a_removed_backend_is_handed_to_nobody_who_waits() -> None:
    pool = elastic(FakeBackend("m/0", slots=3), FakeBackend("m/1"))
    leases = [await pool.acquire(slot_request(2)) for _ in range(4)]
    waiting = await queued(pool, 4)
    ended: list[str] = []
    pool.remove("m/0", lambda: ended.append("m/0"))
    first, *others = [lease for lease in leases if lease.backend.name == "m/0"]
    first.resize(1)
    for lease in (first, *others):
        lease.release()
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert (ended, pool.in_flight) == (["m/0"], 1)
    (last,) = [lease for lease in leases if lease.backend.name == "m/1"]
    last.release()
    assert [(await task).release() for task in waiting] == [None] * 4
    assert pool.in_flight == 0


async def test_a_replacement_has_the_name_while_the_old_one_still_has_requests() -> None:
    old, new = FakeBackend("m/0"), FakeBackend("m/0")
    pool = elastic(old)
    before = await pool.acquire(slot_request(affinity=b"a"))
    assert pool.set_draining("m/0", True) is not None
    ended: list[Backend] = []
    pool.remove("m/0", lambda: ended.append(old))
    pool.add(new)
    after = await pool.acquire(slot_request(affinity=b"a"))  # what was drained was the old one
    assert (before.backend, after.backend) == (old, new)
    before.release()
    assert ended == [old]
    assert (pool.in_flight, pool.in_flight_on(new)) == (1, 1)
    after.release()


async def test_the_quick_choice_forgets_who_is_gone() -> None:
    names = [f"m/{n}" for n in range(3)]
    pool = elastic(*(FakeBackend(name, slots=8) for name in names))
    conversations = [bytes([n]) for n in range(40)]

    async def homes() -> dict[bytes, str]:
        found = {}
        for one in conversations:
            with await pool.acquire(slot_request(affinity=one)) as lease:
                found[one] = lease.backend.name
        return found

    before = await homes()
    assert set(before.values()) == set(names)
    pool.remove("m/1", gone)
    without = await homes()
    assert all(without[one] == home for one, home in before.items() if home != "m/1")
    pool.add(FakeBackend("m/1", slots=8))
    assert await homes() == before  # conversations come home to the replacement


async def test_a_leaving_backend_gets_nothing_new_until_that_is_withdrawn() -> None:
    pool = elastic(FakeBackend("m/0", slots=4))
    lease = await pool.acquire(slot_request())
    pool.set_leaving("m/0", True)
    assert (pool.states[0].reason, pool.ready, pool.drained) == ("leaving", False, False)
    (waiting,) = await queued(pool)
    assert not waiting.done()  # another may come
    pool.set_leaving("m/0", False)
    (await waiting).release()
    lease.release()


async def test_a_model_with_every_backend_drained_refuses_at_once_though_more_may_come() -> None:
    pool = elastic(FakeBackend("m/0"), FakeBackend("m/1"))
    pool.set_draining("m/0", True)
    pool.set_leaving("m/1", True)
    assert pool.drained
    with pytest.raises(Overloaded, match="out of service"):
        await pool.acquire(slot_request())


async def test_a_retry_waits_for_the_only_backend_to_recover_or_to_be_replaced() -> None:
    on_clock = PoolOnClock()
    first = FakeBackend("m/0")
    pool = elastic(first, clock=on_clock)
    with await pool.acquire(slot_request()) as lease:
        lease.failed(ConnectionLost("gone", reason="reset"))
    assert pool.may_recover(first)
    retry = slot_request(failed_on={"m/0"})
    assert pool.can_take(retry)
    (waiting,) = await queued(pool, failed_on={"m/0"})
    assert not waiting.done()  # a try at once would fail as the first did
    pool.remove("m/0", gone)
    assert not pool.may_recover(first)
    second = FakeBackend("m/0")
    pool.add(second)
    with await waiting as lease:
        assert lease.backend is second


async def test_requests_wait_while_the_only_backend_is_down_and_it_is_probed_meanwhile() -> None:
    on_clock = PoolOnClock()
    backend = FakeBackend("m/0")
    pool = on_clock.pool = elastic(backend, clock=on_clock)
    on_clock.probe(backend, good=False)
    probes = backend.wanted_probes
    (waiting,) = await queued(pool)
    (resuming,) = await queued(pool, resuming=True, failed_on={"m/0"})
    assert not pool.ready
    on_clock.now += 20  # longer than any grace
    pool.wake()
    await asyncio.sleep(0)
    assert (waiting.done(), resuming.done()) == (False, False)
    assert backend.wanted_probes > probes
    on_clock.probe(backend, good=True)
    with await resuming:
        pass
    with await waiting:
        pass


async def test_a_request_that_every_backend_is_ruled_out_for_is_not_tried_again() -> None:
    pool = elastic(FakeBackend("m/0"))
    assert not pool.can_take(slot_request(excluded={"m/0"}))
    pool.remove("m/0", gone)
    assert pool.can_take(slot_request(excluded={"m/0"}))
