"""Pools for tests, and requests that wait in them."""

from __future__ import annotations

import asyncio
from typing import Any

from reverie.backends.base import Health
from reverie.errors import BackendError, ReverieError
from reverie.gateway.scheduling.backend_state import FAILURES
from reverie.gateway.scheduling.lease import Lease
from reverie.gateway.scheduling.pool import Pool
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request


def pool(*backends: FakeBackend, queue_size: int = 10, queue_timeout: float = 5) -> Pool:
    return Pool("m", backends, queue_size=queue_size, queue_timeout=queue_timeout)


async def queued(
    pool: Pool, count: int = 1, *, key: str = "", **options: Any
) -> list[asyncio.Task[Lease]]:
    tasks = [
        asyncio.create_task(pool.acquire(slot_request(key=key, **options)), name=key)
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


class PoolOnClock:
    """A pool of backends on a clock that only the test moves."""

    def __init__(self, *backends: FakeBackend, queue_timeout: float = 5) -> None:
        self.now = 1000.0
        self.pool = Pool(
            "m", backends, queue_size=10, queue_timeout=queue_timeout, clock=lambda: self.now
        )

    def circuit(self, backend: FakeBackend) -> str:
        [state] = [state for state in self.pool.states if state.backend is backend]
        return state.circuit

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
        assert self.circuit(backend) == "open"

    def probe(self, backend: FakeBackend, *, good: bool, took: float = 0.0, **more: bool) -> None:
        backend.health = Health(
            good, checked_at=0.0, duration=took, error_code="backend_error", **more
        )
        self.pool.wake()
