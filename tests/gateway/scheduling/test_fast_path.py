"""The quick choice is the one that a look at every backend makes."""

from __future__ import annotations

import random

import pytest

from reverie.backends.base import Health
from reverie.errors import BackendError, ConnectionLost, Overloaded, ReverieError
from reverie.gateway.scheduling.backend_state import SILENCE
from reverie.gateway.scheduling.lease import Lease
from reverie.gateway.scheduling.pool import Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request

CONVERSATIONS = [random.Random(seed).randbytes(16) for seed in range(12)]
FAILURES = BackendError("no"), ConnectionLost("no"), Overloaded("no")


class Twin:
    """A pool on a clock of its own."""

    def __init__(self, count: int, *, quick: bool) -> None:
        self.now = 1000.0
        self.backends = [FakeBackend(f"b{n}", 3 + n % 2) for n in range(count)]
        self.pool = Pool(
            "m", self.backends, queue_size=10, queue_timeout=0.001, clock=lambda: self.now
        )
        for state in self.pool.states:
            state._chance = lambda: 0.5
        if not quick:
            self.pool.fast.choose = lambda _: None  # type: ignore[method-assign]
        self.leases: list[Lease] = []

    async def step(self, chance: random.Random) -> str | None:
        """Something that happens; the backend that was chosen, or the error instead of one."""
        kind = chance.random()
        self.now += chance.choice([0.0, 0.01, 0.5])
        if kind < 0.5 and len(self.leases) < 3 * len(self.backends):
            wanted = slot_request(5, affinity=chance.choice(CONVERSATIONS))
            try:
                self.leases.append(await self.pool.acquire(wanted))
            except ReverieError as error:
                return error.code
            return self.leases[-1].backend.name
        if kind < 0.95 and self.leases:
            lease = self.leases.pop(chance.randrange(len(self.leases)))
            if (bad := chance.random()) < 0.03:
                lease.failed(
                    [BackendError("no"), ConnectionLost("no"), Overloaded("no")][int(bad * 30)]
                )
            elif bad < 0.9:
                lease.on_batch()
                lease.succeeded(5)
            lease.release()
        elif kind < 0.96:
            self.now += SILENCE
        elif kind < 0.97:
            for state in self.pool.states:
                state.gateways, state.elsewhere = 2, chance.choice([0, 0, 1, 2, 4])
            self.pool.wake()
        elif kind < 0.985:
            backend = chance.choice(self.backends)
            backend.health = Health(chance.random() < 0.9, self.now)
            self.pool.wake()
        else:
            name = chance.choice(self.backends[1:]).name
            self.pool.set_draining(name, chance.random() < 0.3)
        return None


class ElasticTwin(Twin):
    """A pool whose backends come, go and are replaced."""

    def __init__(self, count: int, *, quick: bool) -> None:
        super().__init__(count, quick=False)
        self.pool = Pool(
            "m",
            (),
            queue_size=10,
            queue_timeout=0.001,
            clock=lambda: self.now,
            examples=self.backends[:1],
        )
        if not quick:
            self.pool.fast.choose = lambda _: None  # type: ignore[method-assign]
        for backend in self.backends:
            self.add(backend)
        self.unused = 0

    def add(self, backend: FakeBackend) -> None:
        self.pool.add(backend)._chance = lambda: 0.5

    async def step(self, chance: random.Random) -> str | None:
        if chance.random() > 0.05:
            return await super().step(chance)
        index = chance.randrange(len(self.backends))
        old = self.backends[index]
        present = old in self.pool.backends
        kind = chance.random()
        if present and kind < 0.5:
            self.pool.set_leaving(old.name, kind < 0.15)
        elif present:
            self.pool.remove(old.name, self._count_unused)
        if not present or kind > 0.8:
            self.backends[index] = FakeBackend(old.name, old.slots)
            self.add(self.backends[index])
        return None

    def _count_unused(self) -> None:
        self.unused += 1


@pytest.mark.parametrize("seed", range(8))
async def test_it_chooses_the_same_while_backends_come_and_go(seed: int) -> None:
    quick, slow = ElasticTwin(4, quick=True), ElasticTwin(4, quick=False)
    first, second = random.Random(seed), random.Random(seed)
    for _ in range(400):
        assert await quick.step(first) == await slow.step(second)
        assert quick.pool.in_flight == len(quick.leases)
    for twin in (quick, slow):
        for lease in twin.leases:
            lease.release()
        assert (twin.pool.in_flight, twin.pool._removed) == (0, [])
    assert quick.unused == slow.unused > 0


@pytest.mark.parametrize("seed", range(8))
async def test_it_chooses_what_a_look_at_every_backend_chooses(seed: int) -> None:
    quick, slow = Twin(5, quick=True), Twin(5, quick=False)
    first, second = random.Random(seed), random.Random(seed)
    for _ in range(400):
        assert await quick.step(first) == await slow.step(second)
    assert [s.in_flight for s in quick.pool.states] == [s.in_flight for s in slow.pool.states]
    assert quick.pool.in_flight == sum(state.in_flight for state in quick.pool.states)


async def test_requests_are_checked_once_for_backends_that_are_alike() -> None:
    class Alike(FakeBackend):
        checked_by = ("generic",)  # type: ignore[assignment]

    backends = [Alike("a"), FakeBackend("b"), Alike("c")]
    pool = Pool("m", backends, queue_size=1, queue_timeout=5)
    assert [backend.name for backend in pool.fast.unlike] == ["a", "b"]
    backends[2].__class__ = FakeBackend
    pool.wake()
    assert [backend.name for backend in pool.fast.unlike] == ["a", "b", "c"]


async def test_the_largest_context_counts_whether_all_are_healthy_or_not() -> None:
    backends = [FakeBackend("a"), FakeBackend("b")]
    backends[0].context, backends[1].context = 100, 200
    pool = Pool("m", backends, queue_size=1, queue_timeout=5)
    before = pool.within_context(500)
    lease = await pool.acquire(slot_request(affinity=CONVERSATIONS[0]))
    assert before == pool.within_context(500) == 200
    backends[1].context = None
    pool.wake()
    lease.release()
    await pool.acquire(slot_request(affinity=CONVERSATIONS[0]))
    assert pool.within_context(500) == 500


async def test_among_many_a_conversation_stays_at_home_though_other_gateways_are_busy() -> None:
    pool = Pool("m", [FakeBackend(f"b{n}", 8) for n in range(40)], queue_size=1, queue_timeout=5)
    for conversation in CONVERSATIONS:
        for state in pool.states:
            state.elsewhere = 0
        pool.wake()
        with await pool.acquire(slot_request(affinity=conversation)) as before:
            for state in pool.states:
                state.gateways, state.elsewhere = 2, 4
            pool.wake()
            with await pool.acquire(slot_request(affinity=conversation)) as after:
                assert after.backend is before.backend


async def test_it_is_full_where_others_leave_no_slot() -> None:
    pool = Pool("m", [FakeBackend("a", 4)], queue_size=1, queue_timeout=5)
    [state] = pool.states
    state.gateways, state.elsewhere = 4, 3
    pool.wake()
    await pool.acquire(slot_request())
    assert pool.fast.is_full_for(slot_request())
