"""The life of the server: readiness, drain, forced stop."""

from __future__ import annotations

import asyncio
import json

import pytest

from reverie.errors import ConfigurationError
from reverie.server import listen
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat


async def test_health_tells_apart_living_ready_and_able(gateway: Gateway) -> None:
    assert (await gateway.get("/healthz"))[0] == 200
    assert (await gateway.get("/readyz"))[0] == 200
    status, body, headers = await gateway.get("/health")
    assert (status, body["status"]) == (200, "OK")
    assert headers["content-type"] == "application/json"


async def test_a_drain_turns_readiness_off_refuses_new_work_and_lets_running_work_finish(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("slow ",) * 10, delay=0.05)
    running = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.in_flight == 1)
    gateway.server.stop()
    await gateway.until(lambda: gateway.app.in_flight.draining)
    status, body, _ = await gateway.get("/readyz")
    assert (status, body["status"]) == (503, "DRAINING")
    status, answer, headers = await gateway.post(chat())
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert headers["Retry-After"]
    status, answer, _ = await running
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "slow " * 10


async def test_a_request_whose_body_comes_during_a_drain_is_refused(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    running = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.stalled == 1)
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    body = json.dumps(chat()).encode()
    head = f"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
    await reader.readuntil(b"100 Continue\r\n\r\n")  # the body is being waited for
    gateway.server.stop()
    await gateway.until(lambda: gateway.app.in_flight.draining)
    writer.write(body)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"overloaded"' in answer
    assert engine.generations == 1
    engine.resume()
    assert (await running)[0] == 200


async def test_a_request_whose_body_never_comes_is_refused_at_the_end_of_a_drain(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    head = b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    writer.write(head + b"Expect: 100-continue\r\n\r\n")
    await reader.readuntil(b"100 Continue\r\n\r\n")
    gateway.server.stop()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"overloaded"' in answer
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


@pytest.mark.parametrize("second_signal", [True, False])
async def test_what_runs_too_long_is_cut_with_an_error_chunk(
    engine: ScriptedEngine, start_gateway: StartGateway, second_signal: bool
) -> None:
    gateway = await start_gateway(engine, server={"drain_timeout": 60 if second_signal else 0.1})
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
        await response.content.readline()
        gateway.server.stop()
        if second_signal:
            gateway.server.stop()
        rest = await response.text()
    last = json.loads(rest.rstrip().rsplit("data: ", 1)[1])
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["code"] == "overloaded"
    await engine.wait_for(lambda e: e.cancelled == 1)


@pytest.mark.integration
def test_an_address_that_is_taken_is_a_configuration_error() -> None:
    with listen("127.0.0.1", 0) as first:
        with pytest.raises(ConfigurationError, match=r"can't listen .* in use; .*--port"):
            listen("127.0.0.1", first.getsockname()[1])
