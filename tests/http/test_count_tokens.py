"""``/v1/messages`` and its ``count_tokens`` beside keys, failures and retries; over a script."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway

PATH = "/v1/messages"
COUNT = f"{PATH}/count_tokens"
KEYS = {"REVERIE_API_KEYS": "a-secret-key"}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **more}


async def stream(gateway: Gateway, headers: dict[str, str] | None = None, **more: Any) -> str:
    body = asked(stream=True, **more)
    async with gateway.http.post(gateway.url + PATH, json=body, headers=headers) as response:
        assert response.status == 200
        return await response.text()


def names(written: str) -> list[str]:
    return [line[7:] for line in written.split("\n") if line.startswith("event: ")]


def text(written: str) -> str:
    data = [json.loads(line[6:]) for line in written.split("\n") if line.startswith("data: ")]
    return "".join(one["delta"]["text"] for one in data if one["type"] == "content_block_delta")


async def test_where_no_engine_counts_the_size_is_estimated(gateway: Gateway) -> None:
    status, answer, headers = await gateway.post({**asked(), "max_tokens": None}, COUNT)
    assert (status, list(answer)) == (200, ["input_tokens"])
    assert 0 < answer["input_tokens"] < 100
    assert headers["request-id"] == headers["x-request-id"]


async def test_an_engine_counts_where_it_can(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    backend = {"url": engine.url, "kind": "vllm"}
    gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}])
    long = asked(messages=[{"role": "user", "content": "word " * 300}])
    _, counted, _ = await gateway.post(long, COUNT)
    assert counted["input_tokens"] > 0
    assert engine.generations == 0


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "a-secret-key"}, {"Authorization": "Bearer a-secret-key"}],
)
async def test_a_key_may_come_in_either_header(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str, headers: dict[str, str]
) -> None:
    gateway = await start_gateway(engine, environ=KEYS)
    assert (await gateway.post(asked(), path, headers))[0] == 200
    for wrong in ({}, {"x-api-key": "another"}, {**headers, "Authorization": "Bearer another"}):
        status, answer, _ = await gateway.post(asked(), path, wrong)
        assert (status, answer["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_a_mistake_is_answered_in_anthropic_s_shape(gateway: Gateway, path: str) -> None:
    for body, status, kind in (
        (b"{", 400, "invalid_request_error"),
        (asked(messages="Hi"), 400, "invalid_request_error"),
        (asked(model="other"), 404, "not_found_error"),
    ):
        answered, answer, _ = await gateway.post(body, path)
        assert (answered, answer["type"], answer["error"]["type"]) == (status, "error", kind)
    async with gateway.http.get(gateway.url + path) as response:
        assert (response.status, (await response.json())["type"]) == (405, "error")


async def test_an_answer_goes_on_on_another_engine(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    words = ("one ", "two ", "three ")
    engine.script = Script(tokens=words, die_after=1)
    async with ScriptedEngine(Script(tokens=words)) as other:
        backends = [{"url": one.url, "kind": "vllm"} for one in (engine, other)]
        gateway = await start_gateway(models=[{"name": "m", "backends": backends}])
        for question in "abcdefgh":  # conversations, of which each engine gets some
            written = await stream(gateway, messages=[{"role": "user", "content": question}])
            assert text(written) == "one two three "
            assert names(written).count("message_start") == 1
            assert names(written)[-1] == "message_stop"
    assert engine.generations >= 1


async def test_a_stream_that_can_not_go_on_ends_in_an_error_and_no_stop(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("one ", "two "), die_after=1)
    written = await stream(gateway)
    assert names(written)[-1] == "error"
    assert "message_stop" not in names(written)


async def test_silence_is_bridged_by_events_that_clients_know(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(tokens=("one ", "two "), first_delay=0.5)
    gateway = await start_gateway(engine, server={"commit_delay": 0.05, "ping_interval": 0.1})
    written = await stream(gateway)
    assert names(written)[:2] == ["ping", "ping"]
    assert "\n: " not in written
    assert text(written) == "one two "


@pytest.mark.parametrize("kind", ["generic", "vllm"])
async def test_a_stop_sequence_is_named_whichever_engine_met_it(
    engine: ScriptedEngine, start_gateway: StartGateway, kind: str
) -> None:
    engine.script = Script(tokens=("one ", "two ", "three "))
    backend = {"url": engine.url, "kind": kind}
    gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}])
    _, answer, _ = await gateway.post(asked(stop_sequences=["o thr"]), PATH)
    sent = engine.requests[-1].body
    if kind == "vllm":  # it would tell itself
        assert sent["stop"] == ["o thr"]
    else:
        assert "stop" not in sent
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "o thr")
        assert answer["content"] == [{"type": "text", "text": "one tw"}]


async def test_a_repeated_request_is_generated_and_billed_once(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=KEYS)
    headers = {"x-api-key": "a-secret-key", "Idempotency-Key": "once"}
    first = await stream(gateway, headers)
    assert await stream(gateway, headers) == first
    assert names(first)[-1] == "message_stop"
    assert first.startswith("id: 1\nevent: message_start\n")
    resumed = await stream(gateway, {**headers, "Last-Event-ID": "2"})
    assert resumed == first[first.index("id: 3\n") :]
    assert engine.generations == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        rows = database.execute("SELECT outcome, completion_tokens FROM ledger").fetchall()
    assert rows == [("ok", 2)]


async def test_the_name_of_an_ignored_field_adds_no_header_of_its_own(gateway: Gateway) -> None:
    status, _, headers = await gateway.post(asked(**{"a\r\nset-cookie: b": 1}), PATH)
    assert status == 200
    assert "set-cookie" not in headers
    assert headers["x-reverie-ignored"] == r"a\r\nset-cookie: b"
