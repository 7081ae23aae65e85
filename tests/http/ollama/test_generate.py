"""``/api/chat`` and ``/api/generate`` beside keys, failures and retries; over a scripted engine."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.harness import Gateway, StartGateway

CHAT, GENERATE = "/api/chat", "/api/generate"
BOTH = pytest.mark.parametrize("path", [CHAT, GENERATE])
KEYS = {"REVERIE_API_KEYS": "a-secret-key"}
HEADERS = {"Authorization": "Bearer a-secret-key"}
ON = {"ollama": True}


def asked(path: str = CHAT, **more: Any) -> dict[str, Any]:
    question = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {}
    return {"model": "m", **(question or {"prompt": "Hi"}), **more}


async def stream(
    gateway: Gateway, path: str = CHAT, headers: dict[str, str] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """The lines of a streamed answer."""
    body = asked(path, **more)
    async with gateway.http.post(gateway.url + path, json=body, headers=headers) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in (await response.text()).splitlines()]


async def move(
    gateway: Gateway, path: str = CHAT, headers: dict[str, str] | None = None, **body: Any
) -> tuple[int, dict[str, Any], Any]:
    """The status, the one object and the headers of what is no request for an answer."""
    body = {"model": "m", **body}
    async with gateway.http.post(gateway.url + path, json=body, headers=headers) as response:
        return response.status, json.loads(await response.text()), response.headers


def text(lines: list[dict[str, Any]]) -> str:
    return "".join(
        line["message"]["content"] if "message" in line else line["response"] for line in lines
    )


@pytest.fixture
async def ollama(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, server=ON)


@BOTH
async def test_an_answer_is_streamed_unless_that_is_declined(ollama: Gateway, path: str) -> None:
    lines = await stream(ollama, path)
    assert text(lines) == "Hello world"
    assert [line["done"] for line in lines] == [False, False, True]
    last = lines[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 10, 2)
    status, whole, headers = await ollama.post(asked(path, stream=False), path)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (text([whole]), whole["done"]) == ("Hello world", True)


@pytest.mark.parametrize("name", ["m", "m:latest", "alias", "alias:latest", "a:7b", "a:7b:latest"])
async def test_a_name_is_known_with_and_without_a_tag(
    engine: ScriptedEngine, start_gateway: StartGateway, name: str
) -> None:
    gateway = await start_gateway(engine, server=ON, model={"aliases": ["alias:latest", "a:7b"]})
    lines = await stream(gateway, model=name)
    assert {line["model"] for line in lines} == {name}
    status, _, _ = await gateway.post(
        {"model": name, "messages": [{"role": "user", "content": "Hi"}]}, "/v1/chat/completions"
    )
    assert status == 200


async def test_options_reach_the_engine_and_the_others_are_told(
    engine: ScriptedEngine, ollama: Gateway
) -> None:
    options = {"num_predict": 1, "temperature": 0, "top_k": 7, "num_ctx": 9, "repeat_penalty": 1.1}
    status, answer, headers = await ollama.post(asked(stream=False, options=options), CHAT)
    sent = engine.requests[-1].body
    assert (sent["max_tokens"], sent["temperature"], sent["top_k"]) == (1, 0, 7)
    assert sent["repetition_penalty"] == 1.1
    assert headers["x-reverie-ignored"] == "options.num_ctx"
    assert (status, answer["done_reason"]) == (200, "length")


async def test_a_call_is_one_line_and_comes_back_with_its_result(
    engine: ScriptedEngine, ollama: Gateway
) -> None:
    engine.script = Script(
        tokens=("Look.",), tool_calls=[ToolCall(name="f", arguments=('{"a"', ":1}"))]
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    said, calls, last = await stream(ollama, tools=[tool])
    (call,) = calls["message"]["tool_calls"]
    assert said["message"]["content"] == "Look."
    assert (call["function"]["name"], call["function"]["arguments"]) == ("f", {"a": 1})
    assert last["done_reason"] == "stop"
    engine.script = Script(tokens=("Done",))
    history = [
        *asked()["messages"],
        {"role": "assistant", "content": "", "tool_calls": [{"function": call["function"]}]},
        {"role": "tool", "tool_name": "f", "content": "sunny"},
    ]
    assert text(await stream(ollama, messages=history, tools=[tool])) == "Done"
    _, calling, result = engine.requests[-1].body["messages"]
    assert calling["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert result["tool_call_id"] == calling["tool_calls"][0]["id"]


@BOTH
async def test_a_key_is_asked_for_and_errors_are_one_text(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str
) -> None:
    gateway = await start_gateway(engine, environ=KEYS, server=ON)
    for body, headers, status in (
        (asked(path), {}, 401),
        (asked(path), {"Authorization": "Bearer another"}, 401),
        (asked(path, model="other"), HEADERS, 404),
        (asked(path, format="xml"), HEADERS, 400),
        (b"{", HEADERS, 400),
    ):
        answered, answer, _ = await gateway.post(body, path, headers)
        assert (answered, list(answer)) == (status, ["error"])
        assert isinstance(answer["error"], str)
    async with gateway.http.get(gateway.url + path, headers=HEADERS) as response:
        assert (response.status, list(await response.json())) == (405, ["error"])
    assert engine.generations == 0


async def test_it_is_not_there_unless_the_operator_turns_it_on(gateway: Gateway) -> None:
    for path in (CHAT, GENERATE):
        assert (await gateway.post(asked(path), path))[0] == 404
    assert (await gateway.get("/api/tags"))[0] == 404
    assert "Ollama" not in (await gateway.get("/"))[1]


@pytest.fixture
async def engines() -> AsyncIterator[list[ScriptedEngine]]:
    whole = Script(tokens=("one ", "two ", "three "))
    async with ScriptedEngine(whole) as first, ScriptedEngine(whole) as second:
        yield [first, second]


@BOTH
async def test_an_engine_that_dies_in_mid_answer_leaves_the_text_as_it_would_have_been(
    engines: list[ScriptedEngine], start_gateway: StartGateway, path: str
) -> None:
    gateway = await start_gateway(*engines, server=ON, backend={"continues": True})

    async def answer() -> list[Any]:
        lines = await stream(gateway, path, options={"temperature": 0})
        told = ("created_at", "total_duration", "prompt_eval_duration", "eval_duration")
        return [{k: v for k, v in line.items() if k not in told} for line in lines]

    undisturbed = await answer()
    assert text(undisturbed) == "one two three "
    for after in range(4):
        next_answer = [Script(tokens=("one ", "two ", "three "), die_after=after)]
        for engine in engines:
            engine.scripts = next_answer  # whichever of them gives it
        assert await answer() == undisturbed
    assert sum(engine.died for engine in engines) == 4


async def test_a_stream_that_can_not_go_on_ends_with_an_error(
    engine: ScriptedEngine, ollama: Gateway
) -> None:
    engine.script = Script(tokens=("one ", "two "), die_after=1)
    lines = await stream(ollama)
    assert list(lines[-1]) == ["error"]
    assert not any(line.get("done") for line in lines)


async def test_silence_is_bridged_by_empty_pieces(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(tokens=("one ", "two "), first_delay=0.5)
    server = {**ON, "commit_delay": 0.05, "ping_interval": 0.1}
    gateway = await start_gateway(engine, server=server)
    lines = await stream(gateway)
    empty = {"message": {"role": "assistant", "content": ""}, "done": False}
    assert lines[:2] == [empty, empty]
    assert text(lines) == "one two "


async def test_a_repeated_request_is_generated_and_billed_once_and_has_no_numbers(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=KEYS, server=ON)
    headers = {**HEADERS, "Idempotency-Key": "once"}
    first = await stream(gateway, headers=headers)
    assert await stream(gateway, headers=headers) == first
    assert await stream(gateway, headers={**headers, "Last-Event-ID": "2"}) == first
    assert text(first) == "Hello world"
    assert engine.generations == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        rows = database.execute("SELECT outcome, completion_tokens FROM ledger").fetchall()
    assert rows == [("ok", 2)]


@BOTH
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_model_elsewhere_is_loaded_already_and_no_answer_is_generated(
    engine: ScriptedEngine, ollama: Gateway, tmp_path: Path, path: str, streamed: bool
) -> None:
    headers = {"Idempotency-Key": "once"}
    for _ in range(2):
        status, told, got = await move(ollama, path, headers, stream=streamed)
        assert (status, told["done"], told["done_reason"]) == (200, True, "load")
        assert "idempotent-replayed" not in got
    assert engine.generations == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        rows = database.execute("SELECT outcome, completion_tokens FROM ledger").fetchall()
    assert rows == [("ok", 0)] * 2


async def test_a_model_elsewhere_is_not_unloaded(ollama: Gateway) -> None:
    status, told, _ = await move(ollama, keep_alive=0)
    assert status == 403
    assert "operator" in told["error"]


async def test_loading_counts_against_the_limits_of_a_model(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server=ON, model={"limits": {"rpm": 1}})
    assert (await move(gateway))[0] == 200
    status, told, headers = await move(gateway)
    assert (status, list(told)) == (429, ["error"])
    assert int(headers["retry-after"]) > 0


@pytest.mark.real
async def test_a_model_that_runs_here_is_loaded_and_unloaded_once_nobody_uses_it(
    start_gateway: StartGateway,
) -> None:
    from reverie.models.store import fetch

    fetch("smollm2-135m")
    small = {"slots": 2, "kv_tokens": 2048, "cache_mib": 0, "source": "smollm2-135m"}
    gateway = await start_gateway(
        server=ON,
        models=[{"name": "cold", **small, "warm": False}, {"name": "warm", **small}],
    )

    async def loaded() -> set[str]:
        listed = (await gateway.get("/api/ps"))[1]["models"]
        return {entry["name"] for entry in listed}

    await gateway.until(lambda: gateway.pool("warm").ready)
    assert await loaded() == {"warm:latest"}
    unload = {"model": "cold", "keep_alive": 0}
    for reason, body in (("load", {"model": "cold"}), ("unload", unload), ("unload", unload)):
        status, told, _ = await move(gateway, **body)
        assert (status, told["done_reason"]) == (200, reason)
        assert ("cold:latest" in await loaded()) is (reason == "load")
    assert (await move(gateway, model="warm", keep_alive=0))[0] == 403

    await move(gateway, model="cold")
    long = asked(model="cold", options={"num_predict": 500, "temperature": 0})
    async with gateway.http.post(gateway.url + CHAT, json=long) as response:
        await response.content.readline()
        status, told, _ = await move(gateway, **unload)
        assert status == 403
        assert "in use" in told["error"]
    assert "cold:latest" in await loaded()
