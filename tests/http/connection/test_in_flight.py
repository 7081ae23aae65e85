"""What runs is waited for, and can be ended."""

from __future__ import annotations

import asyncio

import pytest

from reverie.errors import BackendTimeout, Overloaded
from reverie.http.connection.in_flight import InFlight


async def test_a_drain_waits_for_all_that_runs() -> None:
    in_flight = InFlight()
    await in_flight.wait_idle()
    async with in_flight.running(10):
        assert len(in_flight) == 1
        waiting = asyncio.create_task(in_flight.wait_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert len(in_flight) == 0


async def test_a_drain_lets_nothing_new_begin_but_what_joins() -> None:
    in_flight = InFlight()
    in_flight.draining = True
    with pytest.raises(Overloaded):
        in_flight.refuse_when_draining()
    with pytest.raises(Overloaded):
        async with in_flight.running(10):
            pass
    async with in_flight.running(10, joins=True):
        assert len(in_flight) == 1


async def test_a_shutdown_ends_what_still_runs_with_its_reason() -> None:
    in_flight = InFlight()

    async def request() -> None:
        async with in_flight.running(10):
            await asyncio.sleep(10)

    tasks = [asyncio.create_task(request()) for _ in range(2)]
    await asyncio.sleep(0)
    in_flight.end_all(Overloaded("This server is shutting down."))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Overloaded, Overloaded]
    await in_flight.wait_idle()


async def test_what_takes_too_long_is_ended() -> None:
    in_flight = InFlight()
    with pytest.raises(BackendTimeout):
        async with in_flight.running(0.01):
            await asyncio.sleep(10)
    await in_flight.wait_idle()
