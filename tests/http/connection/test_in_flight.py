"""What runs is waited for, and can be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from reverie.errors import BackendTimeout, ClientGone, Overloaded
from reverie.http.connection.exchange import Message, Scope
from reverie.http.connection.extensions import of_exchange
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


class Exchange:
    """What a server tells of one request."""

    body = bytearray()
    more_body = False
    flow: Any = None
    on_disconnect: Callable[[], None] | None = None

    def __init__(self, *, disconnected: bool = False) -> None:
        self.disconnected = disconnected

    @property
    def scope(self) -> Scope:
        return {"type": "http", "extensions": of_exchange(self)}

    def write_chunk(self, data: bytes) -> bool:
        raise AssertionError("nothing is to be written")

    def close_after(self, stall_timeout: float) -> None:
        raise AssertionError("the connection stays")

    def abort(self) -> None:
        raise AssertionError("the connection stays")

    async def receive(self) -> Message:
        raise AssertionError("nothing is to be received")


async def test_a_client_that_leaves_ends_its_request() -> None:
    exchange, in_flight = Exchange(), InFlight()
    with pytest.raises(ClientGone):
        async with in_flight.watched(exchange.scope, exchange.receive, 10):
            assert exchange.on_disconnect is not None
            exchange.on_disconnect()
            await asyncio.sleep(10)
    assert exchange.on_disconnect is None
    await in_flight.wait_idle()


async def test_a_request_whose_client_has_left_already_is_ended_at_once() -> None:
    exchange = Exchange(disconnected=True)
    with pytest.raises(ClientGone):
        async with InFlight().watched(exchange.scope, exchange.receive, 10):
            await asyncio.sleep(10)


async def test_on_a_server_that_only_tells_by_asgi_a_client_that_leaves_is_noticed_too() -> None:
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(ClientGone):
        async with InFlight().watched({"type": "http"}, receive, 10):
            await asyncio.sleep(10)
