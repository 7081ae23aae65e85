"""A client that leaves, in each state: its slot is free and the engine works for others."""

from __future__ import annotations

import asyncio
import json

import pytest

from reverie.errors import Overloaded
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat


async def post_and_wait(gateway: Gateway, **more: object) -> asyncio.StreamWriter:
    """Send a request over a connection of its own, and don't read the answer."""
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat(**more)).encode()
    head = f"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_the_prompt_frees_its_slot(
    engine: ScriptedEngine, gateway: Gateway, stream: bool
) -> None:
    engine.script = Script(tokens=("never",), first_delay=60)
    writer = await post_and_wait(gateway, stream=stream)
    await engine.wait_for(lambda e: e.in_flight == 1)
    writer.transport.abort()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: gateway.pool().in_flight == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_the_answer_frees_its_slot(
    engine: ScriptedEngine, gateway: Gateway, stream: bool
) -> None:
    engine.script = Script(tokens=("word ",) * 10_000, delay=0.01)
    writer = await post_and_wait(gateway, stream=stream, max_tokens=10_000)
    await engine.wait_for(lambda e: e.requests and e.requests[0].sent >= 3)
    writer.close()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: gateway.pool().in_flight == 0)


async def test_a_client_that_leaves_the_queue_is_never_generated_for(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, backend={"slots": 1})
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    first = await post_and_wait(gateway, stream=True)
    await engine.wait_for(lambda e: e.in_flight == 1)
    second = await post_and_wait(gateway)
    await gateway.until(lambda: gateway.pool().waiting == 1)
    second.transport.abort()
    await gateway.until(lambda: gateway.pool().waiting == 0)
    first.transport.abort()
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    assert len(engine.requests) == 1


async def test_a_client_that_stops_reading_is_treated_as_gone(
    engine: ScriptedEngine, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(
        engine, server={"write_timeout": 0.2, "ping_interval": 0.1, "commit_delay": 0.1}
    )
    engine.script = Script(tokens=("x" * 8000,) * 20_000, batch=8)
    writer = await post_and_wait(gateway, stream=True, max_tokens=20_000)
    await engine.wait_for(lambda e: e.cancelled == 1, timeout=30)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    await gateway.until(lambda: not gateway.server.server_state.connections)
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []
    writer.transport.abort()


async def test_a_stream_that_breaks_while_its_client_does_not_read_is_dropped(
    engine: ScriptedEngine, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(engine, server={"write_timeout": 3})
    engine.script = Script(tokens=("x" * 8000,) * 20_000, batch=8)
    writer = await post_and_wait(gateway, stream=True, max_tokens=20_000)
    await engine.wait_for(lambda e: e.requests and e.requests[0].sent > 0)
    before = 0
    while before != (before := engine.requests[0].sent):  # until every buffer is full
        await asyncio.sleep(0.1)
    gateway.app.end_requests(Overloaded("Enough.", retry_after=1))
    await gateway.until(lambda: not gateway.server.server_state.connections)
    (line,) = [record for record in caplog.records if record.name == "reverie.request"]
    assert line.fields["error"] == "overloaded"
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []
    writer.transport.abort()


async def test_many_clients_that_come_and_go_leave_nothing_behind(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, backend={"slots": 4}, server={"queue_size": 1000})
    engine.script = Script(tokens=("a",) * 50, delay=0.002, first_delay=0.005)

    async def come_and_go(number: int) -> None:
        writer = await post_and_wait(gateway, stream=bool(number % 2))
        await asyncio.sleep((number % 13) / 500)
        writer.transport.abort()

    await asyncio.gather(*map(come_and_go, range(150)))
    pool = gateway.pool()
    await gateway.until(lambda: pool.in_flight == 0 and pool.waiting == 0)
    await engine.wait_for(lambda e: e.in_flight == 0)
    engine.script = Script(tokens=("still here",))
    assert (await gateway.post(chat()))[0] == 200
