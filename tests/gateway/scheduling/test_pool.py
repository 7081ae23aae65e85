"""A pool lends its slots, each to one request, and takes them back whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from reverie.errors import BackendError, ModelLoading, Overloaded
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, end, pool, queued


async def test_the_least_busy_backend_is_chosen() -> None:
    small, large = FakeBackend("small", 2), FakeBackend("large", 4)
    shared = pool(small, large)
    chosen = [(await shared.acquire(slot_request())).backend.name for _ in range(6)]
    assert sorted(chosen) == ["large"] * 4 + ["small"] * 2
    assert chosen[1] == "large"


async def test_a_released_slot_goes_to_the_request_that_waits_longest() -> None:
    shared = pool(FakeBackend("a"))
    lease = await shared.acquire(slot_request())
    first, second = await queued(shared, 2)
    lease.release()
    lease.release()  # idempotent
    await asyncio.wait_for(first, 1)
    assert not second.done()
    assert (shared.in_flight, shared.waiting) == (1, 1)
    second.cancel()


async def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    shared = pool(FakeBackend("a"), queue_size=1)
    await shared.acquire(slot_request())
    (waiting,) = await queued(shared)
    with pytest.raises(Overloaded) as caught:
        await shared.acquire(slot_request())
    assert int(caught.value.headers["Retry-After"]) >= 1
    waiting.cancel()


async def test_a_wait_ends_at_its_deadline_and_leaves_nothing_behind() -> None:
    shared = pool(FakeBackend("a"), queue_timeout=0.01)
    lease = await shared.acquire(slot_request())
    with pytest.raises(Overloaded, match=r"No slot became free within 0\.01 s, with 0 requests"):
        await shared.acquire(slot_request())
    assert shared.waiting == 0
    lease.release()
    assert shared.in_flight == 0


async def test_a_wait_for_a_loading_model_ends_as_model_loading() -> None:
    shared = pool(FakeBackend("a", ready=False), queue_timeout=0.01)
    with pytest.raises(ModelLoading, match=r"still loading after 0\.01 s, with 0 requests"):
        await shared.acquire(slot_request())


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
    lease = await shared.acquire(slot_request())
    (waiting,) = await queued(shared)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert shared.waiting == 0
    lease.release()
    assert shared.in_flight == 0


async def test_a_slot_granted_in_the_turn_of_its_cancellation_is_given_back() -> None:
    shared = pool(FakeBackend("a"))
    lease = await shared.acquire(slot_request())
    (waiting,) = await queued(shared)
    lease.release()  # grants the slot …
    waiting.cancel()  # … to a waiter that is cancelled before it can take it
    await asyncio.gather(waiting, return_exceptions=True)
    assert shared.in_flight == 0
    (await shared.acquire(slot_request())).release()


async def test_an_excluded_backend_is_never_granted() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    shared = pool(first, second)
    lease = await shared.acquire(slot_request(excluded={"first"}))
    assert lease.backend.name == "second"
    waiting = asyncio.create_task(shared.acquire(slot_request(excluded={"first"})))
    await asyncio.sleep(0)
    assert (
        await shared.acquire(slot_request())
    ).backend.name == "first"  # not held up by the one ahead
    lease.release()
    assert (await waiting).backend.name == "second"


async def test_a_model_that_can_never_be_served_fails_at_once_for_all() -> None:
    backend = FakeBackend("a", ready=False)
    shared = pool(backend)
    (waiting,) = await queued(shared)
    backend.failure = "the file is gone"
    shared.wake()
    for attempt in (waiting, asyncio.create_task(shared.acquire(slot_request()))):
        with pytest.raises(BackendError) as caught:
            await attempt
        assert "file" not in caught.value.message
        assert caught.value.reason == "the file is gone"


async def test_requests_run_together_only_as_far_as_their_tokens_fit() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    first = await shared.acquire(slot_request(60))
    large = asyncio.create_task(shared.acquire(slot_request(50)))
    small = asyncio.create_task(shared.acquire(slot_request(10)))
    await asyncio.sleep(0)
    assert shared.waiting == 2  # the small one would fit, but doesn't overtake
    first.release()
    assert [(await task).backend.name for task in (large, small)] == ["a", "a"]


async def test_a_request_that_is_larger_than_everything_runs_alone() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    huge = await shared.acquire(slot_request(1000))
    other = asyncio.create_task(shared.acquire(slot_request(1)))
    await asyncio.sleep(0)
    assert not other.done()
    huge.release()
    await other


async def test_a_full_queue_says_that_the_model_is_loading_while_it_is() -> None:
    shared = pool(FakeBackend("a", ready=False), queue_size=1)
    shared.seconds_to_ready = lambda: 7.0
    waiting = await queued(shared)
    with pytest.raises(ModelLoading, match="still loading, and the queue is full") as caught:
        await shared.acquire(slot_request())
    assert caught.value.retry_after == 7.0
    await end(waiting)


async def test_a_request_that_leaves_no_longer_holds_up_others() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    await shared.acquire(slot_request(60))
    (large,) = await queued(shared, tokens=50)
    (small,) = await queued(shared, tokens=10)
    large.cancel()
    assert (await asyncio.wait_for(small, 1)).position == 2


async def test_a_queue_that_was_made_shorter_refuses_nobody_who_is_served_at_once() -> None:
    shared = pool(FakeBackend("a", slots=4, capacity=100), queue_size=20)
    running = await shared.acquire(slot_request(60, key="large"))
    large = await queued(shared, 5, tokens=90, key="large")
    shared.bound(queue_size=2, queue_timeout=5)
    (await shared.acquire(slot_request(5, key="small"))).release()
    await end(large)
    running.release()
    assert (shared.in_flight, shared.waiting) == (0, 0)


async def test_a_weight_of_none_does_no_harm_to_others() -> None:
    shared = pool(FakeBackend("a"))
    slot = await shared.acquire(slot_request())
    with pytest.raises(ValueError, match="weight"):
        await shared.acquire(slot_request(weight=0))
    (waiting,) = await queued(shared)
    slot.release()
    assert (await asyncio.wait_for(waiting, 1)).backend.name == "a"


def test_a_request_is_counted_for_no_more_than_a_backends_context() -> None:
    small, large = FakeBackend("small"), FakeBackend("large")
    small.context, large.context = 100, 300
    assert pool(small).within_context(5000) == 100
    assert pool(small, large).within_context(5000) == 300
    assert pool(small, FakeBackend("unknown")).within_context(5000) == 5000
    assert pool(small).within_context(50) == 50


async def test_a_conversation_stays_where_it_is_while_there_is_room_for_it() -> None:
    backends = [FakeBackend(name, 2) for name in "abcd"]
    clocked = PoolOnClock(*backends)
    homes = {}
    for conversation in (b"1", b"2", b"3", b"4", b"5"):
        for _ in range(3):
            with await clocked.pool.acquire(slot_request(affinity=conversation)) as lease:
                homes.setdefault(conversation, lease.backend.name)
                assert lease.backend.name == homes[conversation]
    assert len(set(homes.values())) > 1
    busy = [
        await clocked.pool.acquire(slot_request(excluded=set("abcd") - {homes[b"1"]}))
        for _ in range(2)
    ]
    assert (await clocked.pool.acquire(slot_request(affinity=b"1"))).backend is not busy[0].backend


async def test_a_waiting_request_goes_home_when_it_can() -> None:
    clocked = PoolOnClock(FakeBackend("a"), FakeBackend("b"))
    with await clocked.pool.acquire(slot_request(affinity=b"1")) as lease:
        home = lease.backend
    first, second = (
        await clocked.pool.acquire(slot_request()),
        await clocked.pool.acquire(slot_request()),
    )
    away = first if second.backend is home else second
    waiting = asyncio.create_task(clocked.pool.acquire(slot_request(affinity=b"1")))
    await asyncio.sleep(0)
    for lease in (away, second if away is first else first):
        lease._state.in_flight -= 1  # both at once, without a turn of the queue in between
    clocked.pool.wake()
    assert (await waiting).backend is home


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_every_request_ends_and_every_slot_comes_back(seed: int) -> None:
    chance = random.Random(seed)
    backends = [
        FakeBackend("first", 2),
        FakeBackend("second", 3, capacity=100),
        FakeBackend("third", 1, capacity=60),
    ]
    shared = pool(*backends, queue_size=12)

    async def request() -> str:
        key = chance.choice(["a", "a", "a", "b", "c"])
        excluded = chance.choice([set(), set(), {"first"}, {"second"}, {"first", "third"}])
        tokens, weight = chance.randrange(80), chance.randint(1, 3)
        try:
            with await shared.acquire(
                slot_request(tokens, excluded, key=key, weight=weight, failed_on=excluded)
            ) as lease:
                assert lease.backend.name not in excluded
                for backend in backends:
                    assert shared.in_flight_on(backend) <= backend.slots
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
        except Overloaded:
            return "refused"
        return "served"

    tasks = []
    for _ in range(150):
        tasks.append(asyncio.create_task(request()))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
        if chance.random() < 0.1:
            backend = chance.choice(backends)
            backend.ready = not backend.ready
            shared.wake()
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
    for backend in backends:
        backend.ready = True
    shared.wake()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 4)
    kinds = Counter(end if isinstance(end, str) else type(end).__name__ for end in ends)
    assert set(kinds) <= {"served", "refused", "CancelledError"}
    assert kinds["served"] > 30
    assert (shared.in_flight, shared.waiting) == (0, 0)
    assert len({(await shared.acquire(slot_request(1))).backend.name for _ in range(6)}) == 3


async def test_whoever_waits_for_room_gets_it_once_a_request_turns_out_to_be_smaller() -> None:
    backends = pool(FakeBackend("a", slots=2, capacity=100))
    with await backends.acquire(slot_request(80)) as lease:
        [waiting] = await queued(backends, tokens=40)
        assert not waiting.done()
        lease.resize(60)
        (await waiting).release()
    lease.resize(10)  # too late to matter
    assert backends.states[0].tokens == 0


async def test_who_waits_is_served_as_soon_as_others_are_known_to_have_left_a_slot() -> None:
    shared = pool(FakeBackend("a", 4))
    [state] = shared.states
    state.elsewhere, state.gateways = 2, 4
    slots = [await shared.acquire(slot_request()) for _ in range(2)]
    waiting = await queued(shared, 2)
    assert shared.waiting == 2
    state.elsewhere = 1
    shared.wake()
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, False]
    slots[0].release()
    await asyncio.sleep(0)
    assert waiting[1].done()  # its own slot comes free: nobody need tell
    await end(waiting)


@pytest.mark.parametrize("gateways", [2, 3, 5])
async def test_no_gateway_that_waits_gets_less_than_its_part_however_busy_others_are(
    gateways: int,
) -> None:
    backends = [FakeBackend("a", 8), FakeBackend("b", 8)]
    pools = [pool(*backends, queue_size=99) for _ in range(gateways)]
    waiting = [await queued(one, 30) for one in pools]  # the first takes all, as far as it knows
    chance = random.Random(gateways)
    running = [[task for task in tasks if task.done()] for tasks in waiting]
    for _ in range(200):
        told = [[state.in_flight for state in one.states] for one in pools]
        for one in pools:
            for number, state in enumerate(one.states):
                state.gateways = gateways
                state.elsewhere = (
                    sum(load[number] for load in told) - told[pools.index(one)][number]
                )
            one.wake()
        await asyncio.sleep(0)
        for mine, one, tasks in zip(running, pools, waiting, strict=True):
            mine[:] = [task for task in tasks if task.done() and not task.result()._released]
            assert all(state.in_flight >= 8 // gateways for state in one.states)
            chance.choice(mine).result().release()
            tasks += await queued(one)
    assert sum(one.in_flight for one in pools) <= 16 + 2 * gateways  # they share, and crowd little
    for tasks in waiting:
        await end(tasks)
