"""What is granted without a look at every backend is what such a look would grant."""

from __future__ import annotations

import asyncio
import random

import pytest
import virtual_time

from reverie.backends.base import Health
from reverie.errors import BackendError, ConnectionLost, Overloaded
from reverie.gateway.scheduling import pool
from reverie.gateway.scheduling.backend_state import SILENCE, BackendState
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.pool import Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request

ERRORS = BackendError("no"), ConnectionLost("no"), Overloaded("no", retry_after=1.5)


class Twin:
    """A pool whose requests are told apart by numbers."""

    def __init__(self, *, quick: bool) -> None:
        loop = asyncio.get_running_loop()
        self.backends = [FakeBackend(f"b{n}", 2 + n % 2, capacity=100 + 50 * n) for n in range(4)]
        self.pool = Pool("m", self.backends, queue_size=6, queue_timeout=20, clock=loop.time)
        for state in self.pool.states:
            state._chance = lambda: 0.5
        if not quick:
            self.pool.fast.choose = lambda _: None  # type: ignore[method-assign]
            self.pool._pass_on = lambda _: False  # type: ignore[method-assign]
            self.pool._may_fit = lambda _: True  # type: ignore[method-assign]
            remove = self.pool._queue.remove
            self.pool._queue.remove = lambda one: remove(one) or True  # type: ignore[method-assign]
        self.looks = 0
        wake = self.pool.wake

        def look() -> None:
            self.looks += 1
            wake()

        self.pool.wake = look  # type: ignore[method-assign]
        self.tasks: dict[int, asyncio.Task[Lease]] = {}
        self.leases: dict[int, Lease] = {}
        self.granted: list[tuple[int, str]] = []
        """As the pool decided: a request that needn't wait goes on before those who did."""
        self.refused: dict[int, str] = {}
        self._numbers: dict[int, tuple[int, SlotRequest]] = {}  # by id
        grant = self.pool._grant

        def note(state: BackendState, request: SlotRequest, position: int = 0) -> Lease:
            self.granted.append((self._numbers[id(request)][0], state.name))
            return grant(state, request, position)

        self.pool._grant = note  # type: ignore[method-assign]

    async def step(self, number: int, chance: random.Random) -> None:
        kind = chance.random()
        if kind < 0.5:
            wanted = slot_request(
                tokens=chance.choice([5, 20, 90]),
                key=chance.choice("abc"),
                weight=chance.choice([1, 3]),
                affinity=chance.choice([None, b"1", b"2", b"3"]),
                alone=chance.random() < 0.02,
                resuming=chance.random() < 0.03,
                follows=chance.random() < 0.03,
                failed_on={"b1"} if chance.random() < 0.05 else set(),
                excluded={"b2"} if chance.random() < 0.05 else set(),
            )
            self.tasks[number] = asyncio.create_task(self._acquire(number, wanted))
        elif kind < 0.9 and self.leases:
            lease = self.leases.pop(chance.choice(sorted(self.leases)))
            if (how := chance.random()) < 0.05:
                lease.failed(chance.choice(ERRORS), counts=how < 0.03)
            elif how < 0.9:
                lease.on_batch()
                lease.succeeded(5)
            lease.release()
        elif kind < 0.92 and self.leases:
            self.leases[chance.choice(sorted(self.leases))].on_batch()
        elif kind < 0.94 and self.leases:
            self.leases[chance.choice(sorted(self.leases))].resize(chance.choice([3, 10, 50]))
        elif kind < 0.96 and self.tasks:
            self.tasks.pop(chance.choice(sorted(self.tasks))).cancel()
        elif kind < 0.97:
            self.backends[chance.randrange(4)].health = Health(chance.random() < 0.8, 0.0)
            self.pool.wake()
        elif kind < 0.98:
            self.pool.set_draining(f"b{chance.randrange(3)}", chance.random() < 0.3)
        else:
            await asyncio.sleep(chance.choice([0.5, 2, SILENCE, 30]))
        await asyncio.sleep(chance.choice([0, 0.01, 0.1]))
        await asyncio.sleep(0.001)

    async def _acquire(self, number: int, wanted: SlotRequest) -> Lease:
        self._numbers[id(wanted)] = number, wanted
        try:
            lease = await self.pool.acquire(wanted)
        except (BackendError, Overloaded) as error:
            self.refused[number] = error.code
            raise
        self.leases[number] = lease
        return lease


async def lives(seed: int, *, quick: bool) -> Twin:
    twin, chance = Twin(quick=quick), random.Random(seed)
    for number in range(600):
        await twin.step(number, chance)
    for task in twin.tasks.values():
        task.cancel()
    await asyncio.gather(*twin.tasks.values(), return_exceptions=True)
    return twin


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 117, 177, 225, 280, 334])
def test_the_same_requests_get_the_same_backends_in_the_same_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ALARM_SLACK", 1e-6)  # a look may come first by chance until then
    quick = virtual_time.run(lives(seed, quick=True))
    slow = virtual_time.run(lives(seed, quick=False))
    assert quick.granted == slow.granted
    assert quick.refused == slow.refused
    assert len(quick.granted) > 150
    assert quick.looks < 0.75 * slow.looks
