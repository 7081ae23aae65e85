"""The server around the scripts: connections, records, life and death."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.testing.client import ask, chat, connect, post, read_all
from tests.testing.conftest import StartEngine


async def test_requests_are_recorded(start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        for text in ("one", "two"):
            body = {"messages": [{"role": "user", "content": text}]}
            async with session.post(f"{engine.url}/chat/completions", json=body) as response:
                await response.read()
    await ask(engine)
    first, second, third = engine.requests
    assert first.path == "/v1/chat/completions"
    assert first.headers["authorization"] == "Bearer k"
    assert second.body["messages"][0]["content"] == "two"
    assert [first.connection, second.connection, third.connection] == [1, 1, 2]
    assert [first.outcome, first.sent] == ["completed", 2]
    assert (engine.generations, engine.completed, engine.in_flight) == (3, 3, 0)


@pytest.mark.integration
async def test_counters_count_without_a_record() -> None:
    async with ScriptedEngine(record=False) as engine:
        await ask(engine)
        assert (engine.requests, engine.completed) == ([], 1)


async def test_each_request_takes_the_next_script_then_the_usual_one(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    engine.scripts = [Script(tokens=("1",)), Script(status=500)]
    assert (await ask(engine, stream=True)).text == "1"
    assert (await ask(engine)).status == 500
    assert (await ask(engine, stream=True)).text == "Hello world"
    engine.script = Script(tokens=("new",))
    assert (await ask(engine, stream=True)).text == "new"


async def test_models_and_health_are_served_and_are_no_generations(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    get = b"GET /%b HTTP/1.1\r\nConnection: close\r\n\r\n"
    models = await ask(engine, get % b"v1/models")
    assert models.json["data"][0]["id"] == "scripted"
    assert (await ask(engine, get % b"health")).json == {"status": "ok"}
    engine.healthy = False
    assert (await ask(engine, get % b"health")).status == 503
    missing = await ask(engine, get % b"v1/nothing")
    assert missing.status == 404
    assert "/v1/nothing" in missing.json["error"]["message"]
    assert (engine.generations, len(engine.probes)) == (0, 4)


@pytest.mark.integration
async def test_without_its_key_only_its_health_is_told() -> None:
    async with ScriptedEngine(key="sesame", pages={"/slots": [1, 2]}) as engine:
        get = "GET /{} HTTP/1.1\r\nConnection: close\r\n{}\r\n"
        bearer = "Authorization: Bearer sesame\r\n"
        for path, given, status in (
            ("health", "", 200),
            ("slots", "", 401),
            ("v1/models", bearer.replace("s", "S"), 401),
            ("v1/models", bearer, 200),
        ):
            assert (await ask(engine, get.format(path, given).encode())).status == status, path
        assert (await ask(engine, get.format("slots", bearer).encode())).json == [1, 2]
        assert (await ask(engine)).status == 401
        assert engine.generations == 0


async def test_pipelined_requests_are_answered_in_their_order(start_engine: StartEngine) -> None:
    engine = await start_engine(first_delay=0.001)
    engine.scripts = [Script(tokens=("1",), first_delay=0.001), Script(tokens=("2",), batch=None)]
    reader, writer = await connect(engine)
    writer.write(post(chat(), close=False) + post(chat()))
    received = (await read_all(reader)).received
    assert received.index(b'"content":"1"') < received.index(b'"content":"2"')
    writer.close()


async def test_a_chunked_request_and_expect_continue_are_understood(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    reader, writer = await connect(engine)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    body = json.dumps(chat()).encode()
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (await read_all(reader)).status == 200
    writer.close()


async def test_an_http_1_0_client_gets_a_body_that_ends_with_the_connection(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    request = post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = await ask(engine, request)
    assert "transfer-encoding" not in answer.headers
    assert answer.text == "Hello world"


async def test_what_is_no_http_is_hung_up_on(start_engine: StartEngine) -> None:
    assert (await ask(await start_engine(), b"nonsense\r\n\r\n")).received == b""


async def test_a_connection_can_be_closed_without_warning(start_engine: StartEngine) -> None:
    engine = await start_engine(keep_alive=False)
    answer = await ask(engine, post(chat(stream=True), close=False))
    assert "connection" not in answer.headers
    assert answer.whole


async def test_connections_are_counted(start_engine: StartEngine) -> None:
    engine = await start_engine()
    _, writer = await connect(engine)
    await engine.wait_for(lambda e: e.connections == 1)
    writer.close()
    await engine.wait_for(lambda e: e.connections == 0)


async def test_a_killed_engine_resets_and_refuses_until_it_restarts(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(stall_after=1)
    url = engine.url
    asking = asyncio.create_task(ask(engine, stream=True))
    await engine.wait_for(lambda e: e.stalled == 1)
    engine.kill()
    answer = await asking
    assert (answer.text, answer.reset) == ("Hello", True)
    assert (engine.died, engine.in_flight) == (1, 0)
    with pytest.raises(ConnectionRefusedError):
        await connect(engine)
    await engine.restart()
    assert engine.url == url
    engine.script = Script()
    assert (await ask(engine, stream=True)).text == "Hello world"


@pytest.mark.integration
async def test_a_unix_socket_serves_the_same(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    async with ScriptedEngine(Script(), socket=path) as engine:
        assert engine.url.startswith("http+unix://%2F")
        assert (await ask(engine, stream=True)).text == "Hello world"
        engine.script = Script(die_after=1)
        answer = await ask(engine, stream=True)
        assert (answer.text, answer.whole) == ("Hello", False)
        engine.kill()
        with pytest.raises(ConnectionRefusedError):
            await connect(engine)
        await engine.restart()
        engine.script = Script(batch=None)
        assert (await ask(engine, stream=True)).text == "Hello world"
    assert not path.exists()


async def test_a_wait_that_times_out_says_what_happened(start_engine: StartEngine) -> None:
    engine = await start_engine()
    await ask(engine)
    with pytest.raises(TimeoutError, match=r"completed=1.*completed after 2"):
        await engine.wait_for(lambda e: e.cancelled == 1, timeout=0.01)


async def test_a_condition_that_fails_fails_in_the_waiting_test(start_engine: StartEngine) -> None:
    engine = await start_engine()
    waiting = asyncio.create_task(engine.wait_for(lambda e: bool(e.completed and 1 / 0)))
    await asyncio.sleep(0)
    await ask(engine)
    with pytest.raises(ZeroDivisionError):
        await waiting


async def test_the_answer_to_an_equal_request_is_the_same_bytes(start_engine: StartEngine) -> None:
    engine = await start_engine(batch=None)
    answers = {(await ask(engine, post(chat(stream=True)))).framed for _ in range(3)}
    assert len(answers) == 1
    other = await ask(engine, stream=True, max_tokens=1)
    assert other.text == "Hello"


async def test_a_function_that_fails_is_reported_and_hangs_up(start_engine: StartEngine) -> None:
    def tokens(_body: dict) -> list[str]:
        raise KeyError("a bug in the test")

    engine = await start_engine(tokens=tokens)
    reported: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: reported.append(what))
    answer = await ask(engine)
    assert (answer.received, answer.reset) == (b"", True)
    assert isinstance(reported[0]["exception"], KeyError)
    assert engine.died == 1
