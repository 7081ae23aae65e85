"""What isn't generation goes through keys, limits, the ledger, the pool and the metrics, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reverie.errors import Overloaded
from reverie.store.limits import RateLimits
from reverie.testing import Script, ScriptedEngine
from tests.faults.ledger_tools import add_key, store_at
from tests.harness import StartGateway, chat

EMBED = "/v1/embeddings"
RERANK = "/v1/rerank"
KEY = {"Authorization": "Bearer a-secret-key"}
KEYS = {"REVERIE_API_KEYS": "a-secret-key"}
BODIES: dict[str, Any] = {
    EMBED: {"input": "Hello"},
    RERANK: {"query": "a b", "documents": ["a", "b c"]},
    "/tokenize": {"content": "Hello"},
    "/detokenize": {"tokens": [72, 105]},
}


def models(*engines: ScriptedEngine, task: str = "embed", **more: Any) -> list[dict[str, Any]]:
    backends = [{"url": engine.url, "kind": "vllm"} for engine in engines]
    return [{"name": "m", "task": task, "backends": backends, **more}]


def ledger(folder: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "reverie.db")) as database:
        return database.execute(
            "SELECT outcome, prompt_tokens, completion_tokens, estimated, cost FROM ledger"
        ).fetchall()


async def test_what_was_read_is_billed_by_the_engine_s_count(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    price = {"input": "1USD", "output": "7USD"}
    gateway = await start_gateway(models=models(engine, price=price), environ=KEYS)
    status, _, _ = await gateway.post({"input": ["Hello", "you"]}, EMBED, KEY)
    assert status == 200
    assert ledger(tmp_path) == [("ok", 8, 0, 0, 8 * 1000)]  # nano-units


async def test_without_a_count_an_estimate_is_billed_and_told(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    engine.script = Script(usage=False)
    gateway = await start_gateway(models=models(engine), environ=KEYS)
    _, answer, _ = await gateway.post({"input": "word " * 30}, EMBED, KEY)
    told = answer["usage"]
    assert 30 <= told["prompt_tokens"] < 150
    assert told["estimated"] is True
    assert ledger(tmp_path) == [("ok", told["prompt_tokens"], 0, 1, 0)]


async def test_a_limit_of_tokens_is_never_exceeded_and_given_back_by_the_count(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(models=models(engine))
    async with store_at(f"sqlite:///{tmp_path}/reverie.db") as store:
        secret = add_key(store, "k", limits=RateLimits(tpm=100))
    bearer = {"Authorization": f"Bearer {secret}"}
    status, answer, _ = await gateway.post({"input": ["x" * 60, "y" * 60]}, EMBED, bearer)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert {request.path for request in engine.requests} == {"/tokenize"}
    for left in (60, 20):
        status, _, headers = await gateway.post({"input": "x" * 40}, EMBED, bearer)
        assert status == 200
        assert int(headers["x-ratelimit-remaining-tokens"]) <= left
    status, _, _ = await gateway.post({"input": "x" * 40}, EMBED, bearer)
    assert status == 429


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_a_text_of_few_tokens_and_many_bytes_is_within_a_limit_if_an_engine_says_so(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path, kind: str
) -> None:
    configured = models(engine)
    configured[0]["backends"][0]["kind"] = kind
    gateway = await start_gateway(models=configured)
    async with store_at(f"sqlite:///{tmp_path}/reverie.db") as store:
        secret = add_key(store, "k", limits=RateLimits(tpm=100))
    bearer = {"Authorization": f"Bearer {secret}"}
    # A text of 200 bytes that has 3 tokens, by this engine.
    vectors = b'{"data":[{"embedding":[1,0]}],"usage":{"prompt_tokens":3}}'
    engine.scripts = [Script(body=b'{"tokens":[1,2,3]}'), Script(body=vectors)]
    status, answer, _ = await gateway.post({"input": "x" * 200}, EMBED, bearer)
    if kind == "vllm":
        assert (status, answer["usage"]["prompt_tokens"]) == (200, 3)
        assert [request.path for request in engine.requests] == ["/tokenize", EMBED]
    else:
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert engine.generations == 0


@pytest.mark.parametrize("path", BODIES)
async def test_a_key_is_asked_for_before_anything_is_done(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str
) -> None:
    task = {EMBED: "embed", RERANK: "rerank"}.get(path, "generate")
    gateway = await start_gateway(models=models(engine, task=task), environ=KEYS)
    for headers in ({}, {"Authorization": "Bearer another"}):
        status, answer, _ = await gateway.post(b"{", path, headers)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    status, answer, headers = await gateway.post(BODIES[path], path, {**KEY, "X-Request-Id": "me"})
    assert (status, headers["x-request-id"]) == (200, "me"), answer
    async with gateway.http.get(gateway.url + path, headers=KEY) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("fault", [{"status": 500}, {"die_after": 0}, {"body": b"{}"}])
async def test_a_backend_that_fails_is_replaced_by_another(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path, fault: dict[str, Any]
) -> None:
    engine.script = Script(**fault)
    async with ScriptedEngine() as other:
        gateway = await start_gateway(models=models(engine, other), environ=KEYS)
        for _ in range(4):  # the first of them goes to either
            status, answer, _ = await gateway.post({"input": "Hello"}, EMBED, KEY)
            assert (status, answer["usage"]["prompt_tokens"]) == (200, 5)
        assert engine.generations >= 1
        assert other.completed == 4
    assert [row[:2] for row in ledger(tmp_path)] == [("ok", 5)] * 4


async def test_when_all_fail_the_error_is_the_last_ones_and_nothing_is_billed(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    engine.script = Script(status=500)
    gateway = await start_gateway(models=models(engine), environ=KEYS)
    status, answer, _ = await gateway.post({"input": "Hello"}, EMBED, KEY)
    assert (status, answer["error"]["code"]) == (502, "backend_error")
    await gateway.until(lambda: [row[:3] for row in ledger(tmp_path)] == [("failed", 0, 0)])
    assert gateway.pool().in_flight == 0


@pytest.mark.parametrize("status", [400, 422])
async def test_a_client_s_fault_is_neither_retried_nor_counted(
    engine: ScriptedEngine, start_gateway: StartGateway, status: int
) -> None:
    engine.script = Script(status=status)
    async with ScriptedEngine(engine.script) as other:
        gateway = await start_gateway(models=models(engine, other))
        answered, answer, _ = await gateway.post({"input": "Hello"}, EMBED)
        assert (answered, answer["error"]["param"]) == (400, "input")
        assert engine.generations + other.generations == 1
        assert all(state.failures == 0 for state in gateway.pool().states)


@pytest.mark.parametrize(
    "said",
    [
        (500, "input (2001 tokens) is too large to process. increase the physical batch size "
              "(current batch size: 512)"),
        (400, "This model's maximum context length is 512 tokens. However, you requested 2001 "
              "tokens in the input for embedding generation. Please reduce the length of the "
              "input."),
    ],
    ids=["llama.cpp", "vLLM"],
)  # fmt: skip
async def test_a_text_that_is_too_long_is_the_client_s_to_shorten(
    engine: ScriptedEngine, start_gateway: StartGateway, said: tuple[int, str]
) -> None:
    engine.script = Script(status=said[0], error={"message": said[1]})
    gateway = await start_gateway(models=models(engine))
    status, answer, _ = await gateway.post({"input": "word " * 2000}, EMBED)
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert "512" in error["message"]


async def test_a_client_that_leaves_frees_its_slot_and_stops_the_engine(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    engine.script = Script(stall_after=0)
    gateway = await start_gateway(models=models(engine))
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"input": "Hello"}).encode()
    head = f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await engine.wait_for(lambda e: e.stalled == 1)
    writer.transport.abort()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    await gateway.until(lambda: [row[0] for row in ledger(tmp_path)] == ["cancelled"])


async def test_a_silent_engine_is_given_up(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(stall_after=0)
    gateway = await start_gateway(models=models(engine), server={"first_token_timeout": 0.2})
    status, answer, _ = await gateway.post({"input": "Hello"}, EMBED)
    assert (status, answer["error"]["code"]) == (504, "backend_timeout")


async def test_a_shutdown_lets_it_finish_and_refuses_new_ones(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(stall_after=0)
    gateway = await start_gateway(models=models(engine))
    running = asyncio.create_task(gateway.post({"input": "Hello"}, EMBED))
    await engine.wait_for(lambda e: e.stalled == 1)
    gateway.app.in_flight.draining = True
    status, answer, _ = await gateway.post({"input": "Hello"}, EMBED)
    assert (status, answer["error"]["code"]) == (503, Overloaded.code)
    engine.resume()
    assert (await running)[0] == 200


async def test_requests_wait_for_a_slot_and_get_it(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(stall_after=0)
    models_ = models(engine)
    models_[0]["backends"][0]["slots"] = 1
    gateway = await start_gateway(models=models_)
    both = [asyncio.create_task(gateway.post({"input": "Hello"}, EMBED)) for _ in range(2)]
    await engine.wait_for(lambda e: e.stalled == 1)
    await gateway.until(lambda: gateway.pool().waiting == 1)
    engine.script = Script()
    engine.resume()
    assert [status for status, _, _ in await asyncio.gather(*both)] == [200, 200]


async def test_metrics_and_the_log_tell_of_it(
    engine: ScriptedEngine, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(models=models(engine))
    with caplog.at_level(logging.INFO, "reverie.request"):
        await gateway.post({"input": "a private text"}, EMBED)
        await gateway.post({"input": "a private text", "secret": 1}, EMBED)
    _, text, _ = await gateway.get("/metrics")
    for line in (
        'reverie_requests_total{model="m",outcome="ok",status="200"} 1.0',
        'reverie_requests_total{model="none",outcome="refused",status="400"} 1.0',
        'reverie_tokens_total{direction="prompt",model="m"} 14.0',
    ):
        assert line in text.splitlines()
    told = [record.__dict__["fields"] for record in caplog.records if record.msg == "request"]
    assert told[0]["route"] == EMBED
    assert (told[0]["prompt_tokens"], told[0]["completion_tokens"]) == (14, 0)
    assert "private" not in caplog.text + str(told)


@pytest.mark.parametrize(
    ("task", "path", "can"),
    [
        ("embed", "/v1/chat/completions", "turns text into vectors"),
        ("embed", "/llm", "turns text into vectors"),
        ("embed", "/v1/messages", "turns text into vectors"),
        ("embed", RERANK, "turns text into vectors"),
        ("generate", EMBED, "generates text"),
        ("generate", RERANK, "generates text"),
        ("rerank", EMBED, "ranks documents"),
    ],
)
async def test_a_model_is_not_asked_for_what_it_is_not_for(
    engine: ScriptedEngine, start_gateway: StartGateway, task: str, path: str, can: str
) -> None:
    gateway = await start_gateway(models=models(engine, task=task))
    body = BODIES.get(path, chat(max_tokens=9))
    status, answer, _ = await gateway.post({**body, "model": "m"}, path)
    assert status == 400
    assert can in answer["error"]["message"]
    assert engine.generations == 0


async def test_a_request_without_a_model_goes_to_one_that_is_for_it(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    chats, embeds = models(engine, task="generate"), models(engine)
    gateway = await start_gateway(models=[*chats, {**embeds[0], "name": "vectors"}])
    _, answer, _ = await gateway.post({"input": "Hello"}, EMBED)
    assert answer["model"] == "vectors"
    status, answer, _ = await gateway.post({"input": "Hello", "model": "other"}, EMBED)
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    status, answer, _ = await gateway.post(BODIES[RERANK], RERANK)
    assert (status, answer["error"]["param"]) == (400, "model")


async def test_an_engine_that_can_not_rank_is_named(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    backends = [{"url": engine.url, "kind": "ollama"}]
    gateway = await start_gateway(models=[{"name": "m", "task": "rerank", "backends": backends}])
    status, answer, _ = await gateway.post(BODIES[RERANK], RERANK)
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "ollama" in answer["error"]["message"]
