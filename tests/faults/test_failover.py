"""An engine that dies under an answer, as the client, the ledger and the operator see it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

TOKENS = ("One", " two", " three", "\n", "\n", "four", ".")
WHOLE = Script(tokens=TOKENS, cached_tokens=4)
ROUTES = ["/llm", "/v1/chat/completions"]


@pytest.fixture
async def engines() -> AsyncIterator[list[ScriptedEngine]]:
    async with ScriptedEngine(WHOLE) as first, ScriptedEngine(WHOLE) as second:
        yield [first, second]


async def start(
    start_gateway: StartGateway, engines: list[ScriptedEngine], **backend: Any
) -> Gateway:
    return await start_gateway(
        *engines, backend={"continues": True, **backend}, server={"stall_timeout": 0.2}
    )


def next_answer(engines: list[ScriptedEngine], **faults: Any) -> None:
    """Let the next answer go wrong, whichever engine gives it."""
    scripts = [Script(tokens=TOKENS, cached_tokens=4, **faults)]
    for engine in engines:
        engine.scripts = scripts


async def stream(gateway: Gateway, path: str, **fields: Any) -> tuple[list[dict[str, Any]], bool]:
    """A stream's chunks, and whether it came to its end."""
    body = chat(stream=True, stream_options={"include_usage": True}, temperature=0, **fields)
    async with gateway.http.post(gateway.url + path, json=body) as response:
        assert response.status == 200
        events = (await response.text()).split("\n\n")
    data = [event.removeprefix("data: ") for event in events if event.startswith("data: ")]
    done = data[-1] == "[DONE]"
    return [json.loads(one) for one in data if one != "[DONE]"], done


def shape(chunks: list[dict[str, Any]]) -> Any:
    """What of a stream must be the same whether or not an engine died: all but id and time."""
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    return [
        {key: value for key, value in chunk.items() if key not in ("id", "created")}
        for chunk in chunks
    ]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("how", ["reset", "close", "end"])
async def test_a_stream_whose_engine_dies_is_chunk_for_chunk_what_it_would_have_been(
    engines: list[ScriptedEngine], start_gateway: StartGateway, path: str, how: str
) -> None:
    gateway = await start(start_gateway, engines)
    undisturbed = shape((await stream(gateway, path))[0])
    for after in range(len(TOKENS) + 1):
        next_answer(engines, die_after=after, die_how=how)
        chunks, done = await stream(gateway, path)
        assert done
        assert shape(chunks) == undisturbed, after
    assert sum(engine.died for engine in engines) == len(TOKENS) + 1


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("fault", ["die_after", "stall_after"])
async def test_an_answer_that_is_not_streamed_is_as_whole(
    engines: list[ScriptedEngine], start_gateway: StartGateway, path: str, fault: str
) -> None:
    gateway = await start(start_gateway, engines)
    for after in (1, 4, len(TOKENS)):
        next_answer(engines, **{fault: after})
        status, answer, _ = await gateway.post(chat(temperature=0), path)
        assert status == 200
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": "".join(TOKENS)}
        assert choice["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] == 10
        assert answer["usage"]["completion_tokens"] == len(TOKENS)
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_max_tokens_and_the_finish_reason_hold_across_the_seam(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engines)
    undisturbed = shape((await stream(gateway, "/llm", max_tokens=5))[0])
    for after in range(5):
        next_answer(engines, die_after=after)
        chunks, done = await stream(gateway, "/llm", max_tokens=5)
        assert done
        assert shape(chunks) == undisturbed
    assert undisturbed[-1]["choices"][0]["finish_reason"] == "length"


async def test_the_ledger_has_what_the_client_was_told(
    engines: list[ScriptedEngine], start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start(start_gateway, engines)
    next_answer(engines, die_after=4)
    chunks, _ = await stream(gateway, "/llm")
    with closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        (row,) = database.execute(
            "SELECT outcome, prompt_tokens, cached_tokens, completion_tokens, estimated FROM ledger"
        )
    assert row == ("ok", 10, 4, len(TOKENS), 0)
    usage = chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, len(TOKENS))


@pytest.mark.parametrize("path", ROUTES)
async def test_when_both_engines_die_the_stream_ends_with_the_error_and_no_end(
    engines: list[ScriptedEngine], start_gateway: StartGateway, path: str
) -> None:
    gateway = await start(start_gateway, engines)
    for engine in engines:
        engine.script = Script(tokens=TOKENS, die_after=1)
    engines[0].scripts = engines[1].scripts = [Script(tokens=TOKENS, die_after=2)]
    chunks, done = await stream(gateway, path)
    assert not done
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text.startswith("One two")
    assert "".join(TOKENS).startswith(text)
    assert chunks[-1]["choices"][0]["finish_reason"] == "error"
    assert chunks[-1]["error"]["code"] == "backend_error"
    assert gateway.pool().in_flight == 0


async def test_an_answer_continues_on_an_engine_that_was_down_a_moment_ago(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engines)
    first, second = gateway.pool().states
    engines[0].kill()
    await gateway.until(lambda: first.down or bool(first.backend.probe_soon()))
    next_answer(engines, die_after=2, delay=0.1)
    streaming = asyncio.create_task(stream(gateway, "/llm"))
    await gateway.until(lambda: second.in_flight == 1)
    await engines[0].restart()
    chunks, done = await streaming
    assert done
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "".join(TOKENS)


async def test_the_only_engine_continues_its_answer_once_it_has_been_restarted(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engines[:1])
    next_answer(engines, stall_after=2)
    engine = engines[0]
    gateway.pool().backends[0].set_timeouts(first_token=60, stall=60)
    streaming = asyncio.create_task(stream(gateway, "/llm"))
    await gateway.until(lambda: engine.stalled == 1)
    engine.kill()
    await gateway.until(lambda: gateway.pool().states[0].down)
    await engine.restart()
    chunks, done = await streaming
    assert done
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "".join(TOKENS)


async def test_engines_that_would_start_anew_are_never_asked_to_continue(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engines, continues=False)
    next_answer(engines, die_after=2)
    chunks, done = await stream(gateway, "/llm")
    assert not done
    assert chunks[-1]["error"]["code"] == "backend_error"
    assert sum(engine.generations for engine in engines) == 1


async def test_a_client_that_leaves_while_its_answer_moves_frees_everything(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engines, slots=1)
    for engine in engines:
        engine.script = Script(tokens=TOKENS, first_delay=60)  # so that the seam takes its time
    next_answer(engines, die_after=2)
    asking = asyncio.create_task(stream(gateway, "/llm"))
    await gateway.until(lambda: sum(engine.generations for engine in engines) == 2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    await gateway.until(lambda: all(engine.in_flight == 0 for engine in engines))
    assert sum(engine.cancelled for engine in engines) == 1


async def test_the_deadline_of_a_request_is_one_for_all_its_engines(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        *engines, backend={"continues": True}, server={"request_timeout": 0.3}
    )
    for engine in engines:
        engine.script = Script(tokens=TOKENS, stall_after=1)
    next_answer(engines, die_after=2)
    chunks, done = await stream(gateway, "/llm")
    assert not done
    assert chunks[-1]["error"]["code"] == "backend_timeout"
    await gateway.until(lambda: gateway.pool().in_flight == 0)


async def test_the_operator_sees_each_answer_that_moved_and_each_that_could_not(
    engines: list[ScriptedEngine], start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(start_gateway, engines)
    next_answer(engines, die_after=2)
    await stream(gateway, "/llm")
    next_answer(engines, die_after=2)
    await stream(gateway, "/llm", response_format={"type": "json_object"})
    lines = {record.message: record.fields for record in caplog.records if "tinu" in record.message}  # type: ignore[attr-defined]
    moved = lines["continuing on another backend"]
    assert moved["from"] != moved["to"]
    assert moved["after_tokens"] == 2
    assert lines["can't continue"]["why"] == "the output is constrained"
    _, metrics, _ = await gateway.get("/metrics")
    assert 'reverie_failovers_total{model="m",outcome="continued"} 1.0' in metrics
    assert 'reverie_failovers_total{model="m",outcome="impossible"} 1.0' in metrics


async def test_a_hundred_streams_under_engines_that_come_and_go_are_all_whole(
    engines: list[ScriptedEngine], start_gateway: StartGateway
) -> None:
    """Engines are killed in turn, at once for all that they run, and come back."""
    gateway = await start(start_gateway, engines, slots=8)
    tokens = tuple(f" {number}" for number in range(30))
    for engine in engines:
        engine.script = Script(tokens=tokens, delay=0.004)
    left = 100

    async def ask() -> None:
        nonlocal left
        chunks, done = await stream(gateway, "/v1/chat/completions")
        left -= 1
        assert done, chunks[-1]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        assert text == "".join(tokens)
        assert chunks[-1]["usage"]["completion_tokens"] == 30
        assert chunks[-1]["usage"]["prompt_tokens"] == 10

    async def kill() -> None:
        states = gateway.pool().states
        while left:
            for engine in engines:
                await engine.wait_for(lambda e: e.in_flight > 4 or not left, timeout=30)
                if not left:
                    return
                engine.kill()
                await asyncio.sleep(0.05)
                await engine.restart()
                await gateway.until(lambda: not left or all(s.circuit == "closed" for s in states))

    killing = asyncio.create_task(kill())
    try:
        await asyncio.gather(*(ask() for _ in range(100)))
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    assert sum(engine.died for engine in engines) > 4
    assert gateway.pool().in_flight == 0
