"""CPU time of the scheduler for a request, with no engine, client or timer beside it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable

import virtual_time
from simulated_cluster import Engine

from reverie.errors import ConnectionLost
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.pool import Pool

_LOAD = 0.7
"""Of all slots, while none waits."""
_WAITING = 64


class _Bench:
    """A pool under load, in which one request ends whenever another is to come."""

    def __init__(self, engines: int, slots: int, rounds: int) -> None:
        self._rounds = rounds
        self._slots = slots
        self._numbers = itertools.count()
        self._chance = random.Random(1)
        self._running: list[Lease] = []
        loop = asyncio.get_running_loop()
        self.pool = Pool(
            "m",
            [Engine(f"m/{number}", slots) for number in range(engines)],
            queue_size=1000,
            queue_timeout=1e6,
            clock=loop.time,
        )

    def new(self, key: str = "") -> SlotRequest:
        return SlotRequest(500, key=key, affinity=next(self._numbers).to_bytes(16, "big"))

    def again(self) -> SlotRequest:
        """A turn of one of a few conversations."""
        return SlotRequest(500, affinity=self._chance.randrange(64).to_bytes(16, "big"))

    async def fill(self, load: float) -> None:
        while len(self._running) < load * len(self.pool.backends) * self._slots:
            self._running.append(await self.pool.acquire(SlotRequest(500)))

    def end_one(self) -> None:
        """End one of the requests that run, at random."""
        index = self._chance.randrange(len(self._running))
        self._running[index], self._running[-1] = self._running[-1], self._running[index]
        _end(self._running.pop())

    async def round_trips(self, request: Callable[[], SlotRequest]) -> float:
        """Seconds that a slot and its end take, on average."""
        await self._round_trip(request())
        began = time.thread_time()
        for _ in range(self._rounds):
            await self._round_trip(request())
        return (time.thread_time() - began) / self._rounds

    async def _round_trip(self, request: SlotRequest) -> None:
        _end(await self.pool.acquire(request))

    async def full_engines(self) -> float:
        """The same, where the engine that a conversation prefers has no slot left."""
        spent = 0.0
        for _ in range(self._rounds):
            request = self.new()
            taken = [await self.pool.acquire(request)]
            while taken[0].backend is taken[-1].backend:
                taken.append(await self.pool.acquire(request))
            began = time.thread_time()
            await self._round_trip(request)
            spent += time.thread_time() - began
            for lease in taken:
                lease.release()
        return spent / self._rounds

    async def queueing(self) -> float:
        """The same, while all slots are taken and many wait."""
        await self.fill(1.0)
        tasks = [asyncio.create_task(self._wait(f"key-{n % 16}")) for n in range(_WAITING)]
        await asyncio.sleep(0.001)
        began = time.thread_time()
        for number in range(self._rounds):
            self.end_one()
            tasks.append(asyncio.create_task(self._wait(f"key-{number % 16}")))
            await asyncio.sleep(0)
        spent = time.thread_time() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return spent / self._rounds

    async def _wait(self, key: str) -> None:
        self._running.append(await self.pool.acquire(self.new(key)))

    async def after_a_failure(self) -> float:
        lease = await self.pool.acquire(self.new())
        lease.failed(ConnectionLost("It died."))
        lease.release()
        return await self.round_trips(self.again)


def _end(lease: Lease) -> None:
    lease.on_batch()
    lease.succeeded(100)
    lease.release()


async def _measure(engines: int, slots: int, rounds: int) -> list[float]:
    bench = _Bench(engines, slots, rounds)
    await bench.fill(_LOAD)
    found = [
        await bench.round_trips(bench.again),
        await bench.round_trips(bench.new),
        await bench.round_trips(lambda: SlotRequest(500)),
        await bench.full_engines(),
    ]
    failed = _Bench(engines, slots, rounds)
    await failed.fill(_LOAD)
    return [*found, await bench.queueing(), await failed.after_a_failure()]


def measure(engines: int, slots: int, rounds: int) -> list[float]:
    """Seconds for a request: a conversation goes on, a new one, one without affinity, one whose
    engine is full, one while many wait, one while an engine has just failed."""
    return virtual_time.run(_measure(engines, slots, rounds))
