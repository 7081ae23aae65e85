"""Keys share slots, and room in the queue, by weight."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from reverie.errors import Overloaded
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import end, pool, queued, turns


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


async def test_a_key_that_found_slots_free_has_no_credit_from_it() -> None:
    shared = pool(FakeBackend("a"), queue_size=500)
    for _ in range(20):
        (await shared.acquire(slot_request(100, key="early"))).release()
    slot = await shared.acquire(slot_request(100, key="early"))
    early = await queued(shared, 10, tokens=100, key="early")
    late = await queued(shared, 10, tokens=100, key="late")
    assert Counter((await turns(slot, early + late, 20))[:10]) == {"early": 5, "late": 5}


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


async def test_a_key_that_would_hold_as_much_of_a_full_queue_as_the_greediest_is_refused() -> None:
    shared = pool(FakeBackend("a"), queue_size=3)
    await shared.acquire(slot_request())
    flood = await queued(shared, 2, key="flood")
    light = await queued(shared, key="light")
    with pytest.raises(Overloaded, match="the queue is full"):
        await shared.acquire(slot_request(key="light"))
    await end(flood + light)


async def test_room_in_a_full_queue_is_shared_by_weight() -> None:
    shared = pool(FakeBackend("a"), queue_size=8)
    await shared.acquire(slot_request())
    light = await queued(shared, 8, key="one", weight=1)
    heavy = await queued(shared, 8, key="three", weight=3)
    await asyncio.wait([task for task in light + heavy if not task.done()], timeout=0.01)
    assert sum(not task.done() for task in light) == 2
    assert sum(not task.done() for task in heavy) == 6
    await end(light + heavy)


async def test_a_full_queue_refuses_no_request_whose_turn_it_is_and_that_fits() -> None:
    shared = pool(FakeBackend("a", slots=8, capacity=100), queue_size=1)
    await shared.acquire(slot_request(60))
    (large,) = await queued(shared, tokens=50, key="one")
    small = await asyncio.wait_for(shared.acquire(slot_request(10, key="other")), 1)
    assert small.position == 0
    assert not large.done()
    await end([large])


async def test_a_request_that_makes_room_no_longer_holds_up_others() -> None:
    first, second = FakeBackend("first"), FakeBackend("second", slots=8, capacity=100)
    shared = pool(first, second, queue_size=4)
    await shared.acquire(slot_request(60, excluded={"first"}))
    await shared.acquire(slot_request())
    small = await queued(shared, 3, tokens=1, excluded={"second"}, key="flood", weight=3)
    (large,) = await queued(shared, tokens=60, excluded={"first"}, key="flood", weight=3)
    # It would fit beside the one that runs on the second, if no larger one came before it.
    lease = await asyncio.wait_for(shared.acquire(slot_request(30, key="light")), 1)
    assert (lease.backend, lease.position) == (second, 0)
    with pytest.raises(Overloaded, match="Your key has 4 requests waiting"):
        await large
    await end(small)


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
