from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from reverie.backends.base import Health
from reverie.errors import (
    BackendError,
    BackendTimeout,
    ModelLoading,
    Overloaded,
    RefusedByBackend,
    ReverieError,
)
from reverie.gateway.scheduling.backend_state import FAILURE_COOLDOWN, QUIET, SLOW_PROBES
from reverie.gateway.scheduling.circuit_breaker import FAILURES, LONGEST_WAIT, PROBE_WAIT
from reverie.gateway.scheduling.pool import RESUME_GRACE, Lease, Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request


def pool(*backends: FakeBackend, queue_size: int = 10, queue_timeout: float = 5) -> Pool:
    return Pool("m", backends, queue_size=queue_size, queue_timeout=queue_timeout)


async def queued(
    pool: Pool, count: int = 1, *, key: str = "", **wished: Any
) -> list[asyncio.Task[Lease]]:
    tasks = [
        asyncio.create_task(pool.acquire(slot_request(key=key, **wished)), name=key)
        for _ in range(count)
    ]
    await asyncio.sleep(0)
    return tasks


async def turns(slot: Lease, tasks: list[asyncio.Task[Lease]], count: int) -> list[str]:
    """Pass one slot on so many times; the keys of those who got it, in their order."""
    keys = []
    waiting = set(tasks)
    for _ in range(count):
        slot.release()
        done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED", timeout=1)
        (task,) = done
        keys.append(task.get_name())
        slot = task.result()
    slot.release()
    return keys


async def end(tasks: list[asyncio.Task[Lease]]) -> None:
    for task in tasks:
        task.cancel()
    for lease in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(lease, Lease):
            lease.release()


async def test_the_least_busy_backend_is_chosen() -> None:
    small, large = FakeBackend("small", 2), FakeBackend("large", 4)
    shared = pool(small, large)
    chosen = [(await shared.acquire(slot_request())).backend.name for _ in range(6)]
    assert sorted(chosen) == ["large"] * 4 + ["small"] * 2
    assert chosen[1] == "large"


async def test_a_released_slot_goes_to_whoever_waits_longest() -> None:
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


async def test_a_backend_that_failed_is_avoided_for_a_while_but_not_left_out() -> None:
    first, second = FakeBackend("first", 2), FakeBackend("second", 2)
    ward = Ward(first, second)
    await ward.end(BackendError("no"), {"second"})
    held = [await ward.pool.acquire(slot_request()) for _ in range(3)]
    assert [lease.backend for lease in held] == [second, second, first]
    for lease in held:
        lease.release()
    ward.now += FAILURE_COOLDOWN
    assert await ward.end(None) == "first"


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


async def test_a_light_key_waits_for_one_turn_of_each_slot_however_many_flood() -> None:
    shared = pool(FakeBackend("a", slots=2), queue_size=500)
    slots = [await shared.acquire(slot_request(100, key="flood")) for _ in range(2)]
    flood = await queued(shared, 200, tokens=100, key="flood")
    (light,) = await queued(shared, tokens=100, key="light")
    for slot in slots:
        slot.release()
    lease = await asyncio.wait_for(light, 1)
    assert 1 <= lease.position <= 2
    await end([light, *flood])
    assert (shared.in_flight, shared.waiting) == (0, 0)


async def test_keys_that_flood_together_share_by_weight() -> None:
    shared = pool(FakeBackend("a"), queue_size=500)
    slot = await shared.acquire(slot_request())
    one = await queued(shared, 100, tokens=50, key="one", weight=1)
    three = await queued(shared, 100, tokens=50, key="three", weight=3)
    served = Counter(await turns(slot, one + three, 100))
    assert abs(served["three"] - 75) <= 1
    await end(one + three)


async def test_keys_share_tokens_not_requests() -> None:
    shared = pool(FakeBackend("a"), queue_size=500)
    slot = await shared.acquire(slot_request())
    long = await queued(shared, 100, tokens=1000, key="long")
    short = await queued(shared, 100, tokens=100, key="short")
    served = Counter(await turns(slot, long + short, 55))
    assert abs(served["short"] - 50) <= 1
    await end(long + short)


async def test_a_key_that_comes_to_free_slots_brings_no_credit_with_it() -> None:
    shared = pool(FakeBackend("a"), queue_size=500)
    for _ in range(20):
        (await shared.acquire(slot_request(100, key="early"))).release()
    slot = await shared.acquire(slot_request(100, key="early"))
    early = await queued(shared, 10, tokens=100, key="early")
    late = await queued(shared, 10, tokens=100, key="late")
    assert Counter((await turns(slot, early + late, 20))[:10]) == {"early": 5, "late": 5}


async def test_a_lease_says_where_its_request_entered_the_queue() -> None:
    shared = pool(FakeBackend("a"))
    slot = await shared.acquire(slot_request(10, key="flood"))
    assert slot.position == 0
    flood = await queued(shared, 3, tokens=10, key="flood")
    (light,) = await queued(shared, tokens=10, key="light")
    await turns(slot, [*flood, light], 4)
    assert [task.result().position for task in flood] == [1, 2, 3]
    assert light.result().position == 2


async def test_in_a_full_queue_the_newest_of_the_greediest_key_makes_room() -> None:
    shared = pool(FakeBackend("a"), queue_size=10, queue_timeout=60)
    slot = await shared.acquire(slot_request())
    flood = await queued(shared, 8, key="flood")
    other = await queued(shared, 2, key="other")
    light = await queued(shared, key="light")
    with pytest.raises(Overloaded, match="Your key has 8 requests waiting, each for up to 60 s"):
        await asyncio.wait_for(flood[-1], 1)
    assert shared.waiting == 10
    served = await turns(slot, [*flood[:-1], *other, *light], 10)
    assert Counter(served) == {"flood": 7, "other": 2, "light": 1}


async def test_in_a_full_queue_the_greediest_key_itself_is_refused() -> None:
    shared = pool(FakeBackend("a"), queue_size=4, queue_timeout=60)
    await shared.acquire(slot_request())
    flood = await queued(shared, 3, key="flood")
    light = await queued(shared, key="light")
    with pytest.raises(Overloaded, match="4 requests waiting, each for up to 60 s"):
        await shared.acquire(slot_request(key="flood"))
    even = await queued(shared, key="light")  # displaces: it has two then, and the other three
    with pytest.raises(Overloaded, match="Your key has 3"):
        await asyncio.wait_for(flood.pop(), 1)
    for key in ("light", "flood"):  # with two each, nobody is greedier than the newcomer
        with pytest.raises(Overloaded, match="the queue is full"):
            await shared.acquire(slot_request(key=key))
    assert shared.waiting == 4
    await end(flood + light + even)


async def test_who_would_hold_as_much_of_a_full_queue_as_the_greediest_is_refused() -> None:
    shared = pool(FakeBackend("a"), queue_size=3)
    await shared.acquire(slot_request())
    flood = await queued(shared, 2, key="flood")
    light = await queued(shared, key="light")
    with pytest.raises(Overloaded, match="the queue is full"):
        await shared.acquire(slot_request(key="light"))
    await end(flood + light)


async def test_a_full_queue_has_room_for_who_was_let_down_and_lets_it_go_first() -> None:
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


async def test_who_was_let_down_makes_room_for_nobody() -> None:
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


async def test_a_full_queue_says_that_the_model_is_loading_while_it_is() -> None:
    shared = pool(FakeBackend("a", ready=False), queue_size=1)
    shared.seconds_to_ready = lambda: 7.0
    waiting = await queued(shared)
    with pytest.raises(ModelLoading, match="still loading, and the queue is full") as caught:
        await shared.acquire(slot_request())
    assert caught.value.retry_after == 7.0
    await end(waiting)


async def test_room_in_a_full_queue_is_shared_by_weight() -> None:
    shared = pool(FakeBackend("a"), queue_size=8)
    await shared.acquire(slot_request())
    light = await queued(shared, 8, key="one", weight=1)
    heavy = await queued(shared, 8, key="three", weight=3)
    await asyncio.wait([task for task in light + heavy if not task.done()], timeout=0.01)
    assert sum(not task.done() for task in light) == 2
    assert sum(not task.done() for task in heavy) == 6
    await end(light + heavy)


async def test_a_full_queue_refuses_nobody_whose_turn_it_is_and_who_fits() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100), queue_size=1)
    await shared.acquire(slot_request(60))
    (large,) = await queued(shared, tokens=50, key="one")
    small = await asyncio.wait_for(shared.acquire(slot_request(10, key="other")), 1)
    assert small.position == 0
    assert not large.done()
    await end([large])


async def test_a_request_that_makes_room_no_longer_holds_up_others() -> None:
    first, second = FakeBackend("first"), FakeBackend("second", slots=8, capacity=100)
    shared = pool(first, second, queue_size=2)
    await shared.acquire(slot_request(60, excluded={"first"}))
    await shared.acquire(slot_request())
    (fresh,) = await queued(shared, tokens=50, key="flood")
    narrow = asyncio.create_task(shared.acquire(slot_request(50, excluded={"first"}, key="flood")))
    await asyncio.sleep(0)
    lease = await asyncio.wait_for(shared.acquire(slot_request(10, key="light")), 1)
    assert (lease.backend, lease.position) == (second, 0)
    with pytest.raises(Overloaded, match="Your key has 2 requests waiting"):
        await narrow
    await end([fresh])


async def test_a_request_that_leaves_no_longer_holds_up_others() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100))
    await shared.acquire(slot_request(60))
    (large,) = await queued(shared, tokens=50)
    (small,) = await queued(shared, tokens=10)
    large.cancel()
    assert (await asyncio.wait_for(small, 1)).position == 2


async def test_requests_of_a_flood_that_are_cancelled_are_not_paid_for() -> None:
    shared = pool(FakeBackend("a"), queue_size=500)
    slot = await shared.acquire(slot_request())
    fickle = await queued(shared, 100, tokens=10, key="fickle")
    steady = await queued(shared, 20, tokens=10, key="steady")
    await end(fickle[:90])
    assert shared.waiting == 30
    served = await turns(slot, fickle[90:] + steady, 30)
    assert Counter(served[:20]) == {"fickle": 10, "steady": 10}
    assert (shared.in_flight, shared.waiting) == (0, 0)


async def test_a_turn_is_not_paid_for_by_a_request_cancelled_as_it_came() -> None:
    shared = pool(FakeBackend("a"))
    slot = await shared.acquire(slot_request())
    fickle = await queued(shared, 2, tokens=10, key="fickle")
    steady = await queued(shared, 2, tokens=10, key="steady")
    fickle[0].cancel()
    assert await turns(slot, [*fickle[1:], *steady], 3) == ["fickle", "steady", "steady"]


async def test_room_is_made_by_a_request_that_was_cancelled_in_the_same_turn() -> None:
    shared = pool(FakeBackend("a"), queue_size=2)
    slot = await shared.acquire(slot_request())
    flood = await queued(shared, 2, key="flood")
    flood[-1].cancel()
    light = asyncio.create_task(shared.acquire(slot_request(key="light")), name="light")
    assert await asyncio.wait({flood[-1]}, timeout=1)
    assert flood[-1].cancelled()
    assert await turns(slot, [flood[0], light], 2) == ["flood", "light"]
    assert (shared.in_flight, shared.waiting) == (0, 0)


async def test_a_request_that_a_backend_let_down_goes_before_those_who_had_no_turn_yet() -> None:
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


async def test_a_queue_full_of_those_who_exclude_a_backend_keeps_nobody_from_it() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    shared = pool(first, second, queue_size=1)
    await shared.acquire(slot_request(excluded={"first"}))
    again = asyncio.create_task(shared.acquire(slot_request(excluded={"first"}, failed_on={"x"})))
    await asyncio.sleep(0)
    lease = await shared.acquire(slot_request())
    assert (lease.backend, lease.position) == (first, 0)
    again.cancel()


async def test_a_weight_that_is_none_does_no_harm_to_others() -> None:
    shared = pool(FakeBackend("a"))
    slot = await shared.acquire(slot_request())
    with pytest.raises(ValueError, match="weight"):
        await shared.acquire(slot_request(weight=0))
    (waiting,) = await queued(shared)
    slot.release()
    assert (await asyncio.wait_for(waiting, 1)).backend.name == "a"


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


def test_a_request_is_counted_for_no_more_than_a_backends_context() -> None:
    small, large = FakeBackend("small"), FakeBackend("large")
    small.context, large.context = 100, 300
    assert pool(small).within_context(5000) == 100
    assert pool(small, large).within_context(5000) == 300
    assert pool(small, FakeBackend("unknown")).within_context(5000) == 5000
    assert pool(small).within_context(50) == 50


# Backends that fail --------------------------------------------------------------------------


class Ward:
    """A pool of backends on a clock that only the test moves."""

    def __init__(self, *backends: FakeBackend, queue_timeout: float = 5) -> None:
        self.now = 1000.0
        self.pool = Pool(
            "m", backends, queue_size=10, queue_timeout=queue_timeout, clock=lambda: self.now
        )

    def state(self, backend: FakeBackend) -> str:
        [member] = [member for member in self.pool.members if member.backend is backend]
        return member.breaker.state

    async def end(self, error: ReverieError | None, excluded: set[str] | None = None) -> str:
        """Send one request, which ends like this; the backend that it went to."""
        with await self.pool.acquire(slot_request(excluded=excluded or set())) as lease:
            if error is None:
                lease.succeeded()
            else:
                lease.failed(error)
            return lease.backend.name

    async def open(self, backend: FakeBackend) -> None:
        others = {other.name for other in self.pool.backends} - {backend.name}
        for _ in range(FAILURES):
            await self.end(BackendError("no"), others)
        assert self.state(backend) == "open"

    def probe(self, backend: FakeBackend, *, ok: bool, duration: float = 0.0, **more: bool) -> None:
        backend.health = Health(
            ok, checked_at=0.0, duration=duration, error_code="backend_error", **more
        )
        self.pool.wake()


async def test_a_backend_that_keeps_failing_is_left_alone_until_its_trial() -> None:
    bad, good = FakeBackend("bad", 10), FakeBackend("good", 10)
    ward = Ward(bad, good)
    await ward.open(bad)
    held = [await ward.pool.acquire(slot_request()) for _ in range(8)]
    assert {lease.backend.name for lease in held} == {"good"}
    ward.now += LONGEST_WAIT
    trial = await ward.pool.acquire(slot_request())
    assert trial.backend is bad
    assert (await ward.pool.acquire(slot_request())).backend is good  # one trial at a time
    trial.succeeded()
    assert (await ward.pool.acquire(slot_request())).backend is bad


async def test_the_queue_learns_that_a_trial_went_well() -> None:
    bad, good = FakeBackend("bad", 2), FakeBackend("good", 1)
    ward = Ward(bad, good)
    await ward.open(bad)
    await ward.pool.acquire(slot_request())
    ward.now += LONGEST_WAIT
    trial = await ward.pool.acquire(slot_request())
    (waiting,) = await queued(ward.pool)
    assert not waiting.done()
    trial.succeeded()
    trial.release()
    assert (await asyncio.wait_for(waiting, 1)).backend is bad


async def test_when_all_backends_fail_requests_are_refused_at_once_and_told_when_to_come() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    ward = Ward(*backends)
    for backend in backends:
        await ward.open(backend)
    with pytest.raises(BackendError, match="Every backend of this model fails") as caught:
        await ward.pool.acquire(slot_request())
    assert (caught.value.status, caught.value.code) == (502, "backend_error")
    assert caught.value.headers["Retry-After"] == "1"
    ward.now += LONGEST_WAIT
    await ward.end(None)


async def test_an_answer_that_was_cut_is_tried_wherever_it_may_be_reached() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    ward = Ward(*backends)
    for backend in backends:
        await ward.open(backend)
    assert ward.pool.can_take(slot_request(excluded={"one"}, failed_on={"x"}))
    assert (
        await ward.pool.acquire(slot_request(excluded={"one"}, failed_on={"x"}))
    ).backend is backends[1]
    for backend in backends:
        ward.probe(backend, ok=False)
    assert not ward.pool.can_take(slot_request(excluded={"one"}, failed_on={"x"}))
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await ward.pool.acquire(slot_request(excluded={"one"}, failed_on={"x"}))


async def test_who_has_a_part_of_an_answer_hopes_for_backends_that_are_down() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    ward = Ward(*backends)
    for backend in backends:
        ward.probe(backend, ok=False)
    cut = slot_request(failed_on={"two"}, resuming=True)
    assert ward.pool.can_take(cut)
    (waiting,) = await queued(ward.pool, failed_on={"two"}, resuming=True)
    assert not waiting.done()
    assert all(backend.wanted_probes for backend in backends)  # are they back?
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await ward.pool.acquire(slot_request())
    ward.probe(backends[1], ok=True)
    assert (await asyncio.wait_for(waiting, 1)).backend is backends[1]


async def test_hope_for_backends_that_are_down_has_an_end() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    ward = Ward(*backends)
    for backend in backends:
        ward.probe(backend, ok=False)
    (waiting,) = await queued(ward.pool, failed_on={"two"}, resuming=True)
    ward.now += RESUME_GRACE - 0.1
    ward.pool.wake()
    assert not waiting.done()
    ward.now += 0.1
    ward.pool.wake()
    with pytest.raises(BackendError, match="Every backend of this model fails"):
        await asyncio.wait_for(waiting, 1)


async def test_who_has_a_part_of_an_answer_gives_who_failed_it_time_to_recover() -> None:
    only = FakeBackend("only", 4)
    ward = Ward(only)
    await ward.end(BackendError("no"))
    (waiting,) = await queued(ward.pool, failed_on={"only"}, resuming=True)
    assert not waiting.done()
    ward.probe(only, ok=True)  # or its cooldown is over
    assert (await asyncio.wait_for(waiting, 1)).backend is only


async def test_who_has_a_part_of_an_answer_waits_out_the_pause_of_a_busy_backend() -> None:
    down, busy = FakeBackend("down", 4), FakeBackend("busy", 4)
    ward = Ward(down, busy)
    ward.probe(down, ok=False)
    ward.probe(busy, ok=True)
    await ward.end(Overloaded("busy", retry_after=2.0))
    (waiting,) = await queued(ward.pool, failed_on={"busy", "down"}, resuming=True)
    assert not waiting.done()
    ward.now += 2.0
    ward.pool.wake()
    assert (await asyncio.wait_for(waiting, 1)).backend is busy


async def test_a_busy_backend_has_not_come_back_though_it_answers_probes() -> None:
    busy = FakeBackend("busy")
    ward = Ward(busy, FakeBackend("other"))
    ward.probe(busy, ok=True)
    await ward.end(Overloaded("busy", retry_after=2.0), {"other"})
    ward.probe(busy, ok=True)
    assert not ward.pool.may_recover(busy)
    ward.now += 2.0
    assert ward.pool.may_recover(busy)


async def test_backends_that_fail_requests_and_answer_probes_are_not_all_given_up() -> None:
    """It may be one client's requests that they fail."""
    backends = FakeBackend("one", 4), FakeBackend("two", 4)
    ward = Ward(*backends)
    for backend in backends:
        await ward.open(backend)
        ward.probe(backend, ok=True)
    assert {ward.state(backend) for backend in backends} == {"open"}
    await ward.end(None)


async def test_newcomers_are_not_held_up_by_who_waits_for_a_backend_to_recover() -> None:
    ward = Ward(FakeBackend("only", 4))
    await ward.end(BackendError("no"))
    (waiting,) = await queued(ward.pool, failed_on={"only"}, resuming=True)
    await asyncio.wait_for(ward.pool.acquire(slot_request()), 1)
    assert not waiting.done()
    waiting.cancel()


async def test_who_waits_when_the_last_backend_fails_is_refused_too() -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    ward = Ward(one, two, queue_timeout=60)
    await ward.open(one)
    running = await ward.pool.acquire(slot_request())
    (waiting,) = await queued(ward.pool)
    ward.probe(two, ok=False)
    running.release()
    with pytest.raises(BackendError, match="Every backend of this model fails") as caught:
        await asyncio.wait_for(waiting, 1)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= PROBE_WAIT
    assert ward.pool.waiting == 0


async def test_who_waits_for_the_end_of_a_trial_is_refused_when_it_fails() -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    ward = Ward(one, two, queue_timeout=60)
    await ward.open(one)
    ward.probe(two, ok=False)
    ward.now += LONGEST_WAIT - 1
    trial = await ward.pool.acquire(slot_request())
    (waiting,) = await queued(ward.pool)
    assert not waiting.done()
    trial.failed(BackendTimeout("silent"))
    trial.release()
    with pytest.raises(BackendError, match="Every backend"):
        await asyncio.wait_for(waiting, 1)


async def test_a_models_only_backend_is_tried_however_often_it_failed() -> None:
    only = FakeBackend("only", 2)
    ward = Ward(only)
    for _ in range(3 * FAILURES):
        assert await ward.end(BackendError("no")) == "only"
    ward.probe(only, ok=False)
    assert ward.state(only) == "open"
    await ward.end(None)
    assert ward.state(only) == "closed"


@pytest.mark.parametrize(
    "error", [RefusedByBackend("no"), Overloaded("busy"), ModelLoading("soon")], ids=repr
)
async def test_what_is_not_a_backends_failure_never_opens_its_breaker(error: ReverieError) -> None:
    backend = FakeBackend("a")
    ward = Ward(backend, FakeBackend("b"))
    for _ in range(3 * FAILURES):
        await ward.end(error, {"b"})
    assert ward.state(backend) == "closed"
    assert backend.wanted_probes == 0


async def test_a_trial_that_the_engine_refuses_as_wrong_shows_that_it_works() -> None:
    bad = FakeBackend("bad")
    ward = Ward(bad, FakeBackend("good"))
    await ward.open(bad)
    ward.now += LONGEST_WAIT
    await ward.end(RefusedByBackend("no"), {"good"})
    assert ward.state(bad) == "closed"


async def test_a_busy_backend_is_avoided_for_as_long_as_it_asks_for() -> None:
    first, second = FakeBackend("first", 4), FakeBackend("second", 4)
    ward = Ward(first, second)
    await ward.end(Overloaded("busy", retry_after=7), {"second"})
    ward.now += 6.9
    await ward.end(None, {"second"})  # another request may go well there all the same
    assert await ward.end(None) == "second"
    ward.now += 0.2
    assert await ward.end(None) == "first"


async def test_a_failure_has_its_backend_looked_at() -> None:
    backend = FakeBackend("a")
    ward = Ward(backend)
    await ward.end(BackendError("no"))
    assert backend.wanted_probes == 1


async def test_a_lease_that_is_left_without_a_word_says_nothing() -> None:
    backend = FakeBackend("a")
    ward = Ward(backend, FakeBackend("b"))
    for _ in range(2):
        for _ in range(FAILURES - 1):
            await ward.end(BackendError("no"), {"b"})
            with pytest.raises(asyncio.CancelledError):
                with await ward.pool.acquire(slot_request(excluded={"b"})):
                    raise asyncio.CancelledError
            (await ward.pool.acquire(slot_request(excluded={"b"}))).release()
        assert ward.state(backend) == "closed"
        await ward.end(BackendError("no"), {"b"})
        assert ward.state(backend) == "open"
        ward.now += LONGEST_WAIT
        trial = await ward.pool.acquire(slot_request())
        trial.release()
        assert ward.state(backend) == "half_open"
        with await ward.pool.acquire(slot_request()) as lease:
            lease.succeeded()


async def test_a_failed_probe_takes_a_backend_out_and_a_good_one_brings_it_back() -> None:
    first, second = FakeBackend("first", 4), FakeBackend("second", 4)
    ward = Ward(first, second)
    ward.probe(first, ok=False)
    assert await ward.end(None) == "second"
    ward.now += PROBE_WAIT
    ward.pool.wake()  # the same result again is no news
    ward.probe(first, ok=True)
    assert await ward.end(None) == "first"


async def test_a_probe_that_fails_beside_work_that_goes_well_is_not_believed() -> None:
    backend = FakeBackend("a", 4)
    ward = Ward(backend, FakeBackend("b"))
    running = await ward.pool.acquire(slot_request(excluded={"b"}))
    ward.probe(backend, ok=False, duration=5.0, timed_out=True)
    assert ward.state(backend) == "closed"  # busy, it seems
    running.on_batch()
    ward.now += 3.0
    ward.probe(backend, ok=False, duration=5.0)
    assert ward.state(backend) == "closed"  # a token came in the meantime
    ward.now += 3.0
    ward.probe(backend, ok=False, duration=5.0)
    assert ward.state(backend) == "open"


async def test_a_backend_that_hangs_is_left_alone_though_requests_hang_on_it() -> None:
    backend = FakeBackend("a", 4)
    ward = Ward(backend, FakeBackend("b"))
    running = await ward.pool.acquire(slot_request(excluded={"b"}))
    for _ in range(SLOW_PROBES - 1):
        ward.probe(backend, ok=False, duration=5.0, timed_out=True)
        assert ward.state(backend) == "closed"
        ward.now += 10.0
    running.on_batch()
    ward.now += 3.0
    ward.probe(backend, ok=False, duration=5.0, timed_out=True)
    assert ward.state(backend) == "closed"  # a piece came in the meantime
    for _ in range(SLOW_PROBES):
        ward.now += 10.0
        ward.probe(backend, ok=False, duration=5.0, timed_out=True)
    assert ward.state(backend) == "open"


async def test_a_backend_whose_requests_bring_nothing_gets_no_more_of_them() -> None:
    one, two = FakeBackend("one", 9), FakeBackend("two", 9)
    ward = Ward(one, two)
    hanging = await ward.pool.acquire(slot_request(excluded={"two"}))
    ward.now += QUIET + 1
    held = [await ward.pool.acquire(slot_request()) for _ in range(4)]
    assert {lease.backend for lease in held} == {two}
    assert one.wanted_probes
    hanging.on_batch()
    assert (await ward.pool.acquire(slot_request())).backend is one
    ward.now += QUIET + 1
    await ward.pool.acquire(slot_request())  # better a doubtful one than none


async def test_a_backend_that_failed_a_request_is_believed_to_hang_at_its_first_slow_probe() -> (
    None
):
    backend = FakeBackend("a", 4)
    ward = Ward(backend, FakeBackend("b"))
    await ward.end(BackendTimeout("silent"), {"b"})
    ward.now += 10.0
    await ward.pool.acquire(slot_request(excluded={"b"}))
    ward.probe(backend, ok=False, duration=5.0, timed_out=True)
    assert ward.state(backend) == "open"


async def test_a_backend_that_asked_for_a_pause_has_it_while_there_is_another_to_wait_for() -> None:
    busy, other = FakeBackend("busy", 4), FakeBackend("other")
    shared = pool(busy, other, queue_size=2)
    with await shared.acquire(slot_request(excluded={"other"})) as lease:
        lease.failed(Overloaded("busy", retry_after=0.2))
    running = await shared.acquire(slot_request())
    assert running.backend is other
    waiting = await queued(shared, 2)
    with pytest.raises(Overloaded, match="the queue is full"):
        await shared.acquire(slot_request())
    assert shared.in_flight_on(busy) == 0
    leases = await asyncio.wait_for(asyncio.gather(*waiting), 5)  # its pause is over
    assert [lease.backend for lease in leases] == [busy, busy]


async def test_who_waits_gets_a_backend_whose_trial_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.gateway.scheduling.circuit_breaker.FIRST_WAIT", 0.1)
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FAILURE_COOLDOWN", 0.1)
    bad, good = FakeBackend("bad"), FakeBackend("good")
    shared = pool(bad, good)
    for _ in range(FAILURES):
        with await shared.acquire(slot_request(excluded={"good"})) as lease:
            lease.failed(BackendError("no"))
    await shared.acquire(slot_request())
    (waiting,) = await queued(shared)
    assert not waiting.done()
    assert (await asyncio.wait_for(waiting, 5)).backend is bad


async def test_a_queue_that_was_made_shorter_takes_nothing_from_who_is_served_at_once() -> None:
    shared = pool(FakeBackend("a", slots=4, capacity=100), queue_size=20)
    running = await shared.acquire(slot_request(60, key="large"))
    large = await queued(shared, 5, tokens=90, key="large")
    shared.bound(queue_size=2, queue_timeout=5)
    (await shared.acquire(slot_request(5, key="small"))).release()
    await end(large)
    running.release()
    assert (shared.in_flight, shared.waiting) == (0, 0)


async def test_who_holds_a_part_of_an_answer_waits_until_its_own_deadline() -> None:
    backend = FakeBackend("a", ready=False)
    shared = pool(backend, queue_timeout=0.01)
    waiting = asyncio.create_task(shared.acquire(slot_request(failed_on={"x"}, resuming=True)))
    with pytest.raises(ModelLoading):
        await shared.acquire(slot_request())
    backend.ready = True
    shared.wake()
    (await asyncio.wait_for(waiting, 1)).release()


async def test_a_conversation_stays_where_it_is_while_there_is_room_for_it() -> None:
    backends = [FakeBackend(name, 2) for name in "abcd"]
    ward = Ward(*backends)
    homes = {}
    for conversation in (b"1", b"2", b"3", b"4", b"5"):
        for _ in range(3):
            with await ward.pool.acquire(slot_request(affinity=conversation)) as lease:
                homes.setdefault(conversation, lease.backend.name)
                assert lease.backend.name == homes[conversation]
    assert len(set(homes.values())) > 1
    busy = [
        await ward.pool.acquire(slot_request(excluded=set("abcd") - {homes[b"1"]}))
        for _ in range(2)
    ]
    assert (await ward.pool.acquire(slot_request(affinity=b"1"))).backend is not busy[0].backend


async def test_a_waiting_request_goes_home_when_it_can() -> None:
    ward = Ward(FakeBackend("a"), FakeBackend("b"))
    with await ward.pool.acquire(slot_request(affinity=b"1")) as lease:
        home = lease.backend
    first, second = await ward.pool.acquire(slot_request()), await ward.pool.acquire(slot_request())
    away = first if second.backend is home else second
    waiting = asyncio.create_task(ward.pool.acquire(slot_request(affinity=b"1")))
    await asyncio.sleep(0)
    for lease in (away, second if away is first else first):
        lease._member.in_flight -= 1  # both at once, without a turn of the queue in between
    ward.pool.wake()
    assert (await waiting).backend is home


async def test_speed_is_measured_from_whole_answers_alone() -> None:
    ward = Ward(FakeBackend("a"))
    [member] = ward.pool.members
    for failing in (True, False):
        with await ward.pool.acquire(slot_request()) as lease:
            ward.now += 0.5
            lease.on_batch()
            ward.now += 2.0
            if failing:
                lease.failed(BackendError("no"))
            else:
                lease.succeeded(tokens=21)
        if failing:
            assert member.speed.expected(ward.now) is None
    assert (member.speed.ttft, member.speed.per_token) == (0.5, 0.1)


async def test_an_answer_of_one_token_says_nothing_of_the_pace() -> None:
    ward = Ward(FakeBackend("a"))
    with await ward.pool.acquire(slot_request()) as lease:
        lease.on_batch()
        lease.succeeded(tokens=1)
    assert ward.pool.members[0].speed.per_token is None


async def test_an_answer_whose_client_read_slowly_says_nothing_of_the_pace() -> None:
    ward = Ward(FakeBackend("a"))
    with await ward.pool.acquire(slot_request()) as lease:
        ward.now += 0.5
        lease.on_batch()
        ward.now += 2.0
        lease.succeeded(tokens=21, client_blocked=1.0)
    speed = ward.pool.members[0].speed
    assert (speed.ttft, speed.per_token) == (0.5, None)


async def test_each_change_of_a_backends_state_is_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "reverie.backends")
    bad = FakeBackend("bad")
    ward = Ward(bad, FakeBackend("good"))
    for _ in range(FAILURES):
        await ward.end(BackendTimeout("raw words of an engine", reason="more of them"), {"good"})
    ward.now += LONGEST_WAIT
    await ward.end(None, {"good"})
    told = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [(line["model"], line["backend"]) for line in told] == [("m", "bad")] * 3
    assert [(line["state"], line["reason"]) for line in told] == [
        ("open", "backend_timeout"),
        ("half_open", "trial"),
        ("closed", "success"),
    ]
    assert told[0]["failures"] == FAILURES
