"""Two pools that share a backend's slots, as those of two workers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reverie.errors import Overloaded
from reverie.gateway.scheduling.lease import Lease
from reverie.gateway.scheduling.pool import Pool
from reverie.workers.shares import Report, Room, Share, Shares
from reverie.workers.slots import PoolShares
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import pool, queued


class Shared:
    """Pools over the same backends, whose reports are heard at once."""

    def __init__(
        self, slots: int, capacity: int | None = None, count: int = 2, names: str = "b"
    ) -> None:
        self.shares = [Shares((1, at), Room(slots, capacity or 0)) for at in range(len(names))]
        self.reports = 0
        self.pools: list[Pool] = []
        self._shares: list[PoolShares] = []
        for number in range(count):
            backends = [FakeBackend(name, slots, capacity=capacity) for name in names]
            self.pools.append(pool(*backends, queue_size=100))
            self._shares.append(PoolShares(1, self.pools[-1], self._heard(number)))
        for number in range(count):
            for shares in self.shares:
                self._send(shares.join(number))

    def _heard(self, number: int) -> Callable[[Report], None]:
        def hear(report: Report) -> None:
            self.reports += 1
            shares = self.shares[report.backend]
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: self._send(shares.report(number, report)))

        return hear

    def _send(self, shares: dict[int, Share]) -> None:
        for number, share in shares.items():
            self._shares[number].apply(share)

    @property
    def in_flight(self) -> list[int]:
        return [each.in_flight for each in self.pools]


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def leases(tasks: list[asyncio.Task[Lease]]) -> list[Lease]:
    await settle()
    return [task.result() for task in tasks if task.done()]


async def test_requests_within_the_share_are_reported_to_nobody() -> None:
    shared = Shared(8)
    await settle()
    before = shared.reports
    for _ in range(20):
        lease = await shared.pools[0].acquire(slot_request())
        lease.release()
        await settle()
    assert shared.reports == before


async def test_one_worker_can_have_all_slots_and_gives_them_back_to_another() -> None:
    shared = Shared(4)
    await settle()
    held = await leases(await queued(shared.pools[0], 10))
    assert shared.in_flight == [4, 0]
    waiting = await queued(shared.pools[1], 10)
    await settle()
    for lease in held[:2]:
        lease.release()
        await settle()
    assert shared.in_flight == [2, 2]
    for lease in (*held[2:], *await leases(waiting)):
        lease.release()
        await settle()
        assert sum(shared.in_flight) == 4


async def test_a_request_that_runs_alone_runs_beside_none_of_another_worker() -> None:
    shared = Shared(4, capacity=100)
    await settle()
    (small,) = await leases(await queued(shared.pools[0], tokens=10))
    (loner,) = await queued(shared.pools[1], tokens=10, alone=True)
    await settle()
    assert not loner.done()
    small.release()
    await settle()
    assert shared.in_flight == [0, 1]
    (late,) = await queued(shared.pools[0], tokens=10)
    await settle()
    assert not late.done()
    loner.result().release()
    await settle()
    assert shared.in_flight == [1, 0]
    late.result().release()


async def test_tokens_are_shared_as_slots_are_and_too_many_run_by_themselves() -> None:
    shared = Shared(4, capacity=100)
    await settle()
    (first,) = await leases(await queued(shared.pools[0], tokens=80))
    (second,) = await queued(shared.pools[1], tokens=30)
    await settle()
    assert not second.done()
    first.resize(60)
    await settle()
    assert second.done()
    (huge,) = await queued(shared.pools[0], tokens=500)
    first.release()
    await settle()
    assert not huge.done()
    second.result().release()
    await settle()
    assert shared.in_flight == [1, 0]
    huge.result().release()


async def test_a_free_slot_is_told_though_nobody_waits_for_the_models_other_backend() -> None:
    shared = Shared(2, names="ab")
    await settle()
    held = await leases(await queued(shared.pools[0], 4))
    assert shared.in_flight == [4, 0]
    (waiting,) = await queued(shared.pools[1])
    await settle()
    shared.pools[1].set_draining("b", True)  # so it waits for a alone
    await settle()
    for lease in held:
        if lease.backend.name == "a":
            lease.release()
    await settle()
    assert waiting.done()
    for lease in (*held, waiting.result()):
        lease.release()


async def test_room_is_asked_for_whoever_is_next_whatever_backends_others_wait_for() -> None:
    shared = Shared(4, capacity=100)
    await settle()
    (running,) = await leases(await queued(shared.pools[0], tokens=10))
    (large,) = await queued(shared.pools[0], tokens=95, failed_on={"x"})
    (loner,) = await queued(shared.pools[0], tokens=1, failed_on={"y"}, alone=True)
    await settle()
    running.release()
    await settle()
    assert (loner.done(), large.done()) == (True, False)  # it waits for less, and so it is next
    loner.result().release()
    await settle()
    large.result().release()


async def test_no_room_is_asked_for_on_a_backend_that_wants_a_pause() -> None:
    """Workers would pass it to each other for as long as the pause lasts."""
    shared = Shared(1, names="ab")
    await settle()
    for each in shared.pools:
        (lease,) = await leases(await queued(each, excluded={"a"}))
        lease.failed(Overloaded("busy", retry_after=30))
        lease.release()
        await settle()
    (running,) = await leases(await queued(shared.pools[0], excluded={"b"}))
    waiting = [*await queued(shared.pools[0]), *await queued(shared.pools[1])]
    await settle()
    before = shared.reports
    await settle()
    assert shared.reports == before
    running.release()
    for _ in range(2):
        await settle()
        (done,) = [task for task in waiting if task.done()]
        assert done.result().backend.name == "a"
        waiting.remove(done)
        done.result().release()
