"""A request's id goes with all that is done for it: into log lines, and to engines."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from reverie import background, correlation
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

ADMIN = "an-admin-key-of-this-test"
ID = {"X-Request-Id": "mine-1"}


async def test_what_a_request_s_task_starts_works_for_it_and_background_work_for_none() -> None:
    correlation.bind("req_1")
    found: list[str | None] = []

    async def note() -> None:
        found.append(correlation.request_id())

    await asyncio.create_task(note())
    await background.once("test", note)
    loop = background.Loop("test", note)
    await asyncio.sleep(0)
    await loop.stop()
    assert found == ["req_1", None, None]


def ids(*engines: ScriptedEngine) -> list[str]:
    return [one.headers["x-request-id"] for engine in engines for one in engine.requests]


@pytest.fixture
async def two(start_gateway: StartGateway, engine: ScriptedEngine) -> Any:
    async with ScriptedEngine(engine.script) as other:
        settings = {"continues": True, "kind": "vllm"}
        yield await start_gateway(engine, other, backend=settings), engine, other


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_an_engine_is_told_the_id_that_its_client_gets(
    gateway: Gateway, engine: ScriptedEngine, path: str
) -> None:
    body = {"input": "Hi"} if path.endswith("responses") else chat(max_tokens=5)
    _, _, headers = await gateway.post(body, path)
    assert headers["X-Request-Id"].startswith("req_")
    await gateway.post(body, path, headers=ID)
    await gateway.post(body, path, headers={"X-Request-Id": "no good"})
    assert ids(engine)[:2] == [headers["X-Request-Id"], "mine-1"]
    assert ids(engine)[2].startswith("req_")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/tokenize", {"content": "Hi"}),
    ],
)
async def test_so_is_one_that_is_asked_for_anything_else(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str, body: Any
) -> None:
    task = "rerank" if path.endswith("rerank") else "embed"
    gateway = await start_gateway(engine, backend={"kind": "vllm"}, model={"task": task})
    status, _, _ = await gateway.post(body, path, headers=ID)
    assert status == 200
    assert ids(engine) == ["mine-1"]


@pytest.mark.parametrize("fault", [{"die_after": 1}, {"status": 500}], ids=["dies", "fails"])
async def test_the_next_engine_is_told_the_same_id(
    two: tuple[Gateway, ScriptedEngine, ScriptedEngine], fault: Any
) -> None:
    gateway, *engines = two
    faulty = [Script(tokens=("Hello", " world"), **fault)]
    for engine in engines:
        engine.scripts = faulty
    status, _, _ = await gateway.post(chat(temperature=0), headers=ID)
    assert status == 200
    assert ids(*engines) == ["mine-1", "mine-1"]


async def test_an_engine_never_works_on_two_requests_with_one_id(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    asked = [asyncio.create_task(gateway.post(chat(), headers=ID)) for _ in range(2)]
    several = chat(n=2, stream=False)
    asked.append(asyncio.create_task(gateway.post(several, "/v1/chat/completions")))
    await engine.wait_for(lambda it: it.stalled == 4)
    engine.resume()
    *_, (_, _, headers) = await asyncio.gather(*asked)
    seen = ids(engine)
    assert len(set(seen)) == 4
    for told, count in (("mine-1", 2), (headers["X-Request-Id"], 2)):
        mine = sorted(one for one in seen if one.startswith(told))
        assert len(mine) == count
        assert mine[0] == told
    engine.script = Script()
    await gateway.post(chat(), headers=ID)
    assert ids(engine)[-1] == "mine-1"


async def test_a_generation_that_outlives_its_request_keeps_its_id(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    for number in (1, 2):
        headers = {"Idempotency-Key": "again", "X-Request-Id": f"mine-{number}"}
        _, _, told = await gateway.post(chat(), headers=headers)
        assert told["X-Request-Id"] == f"mine-{number}"
    assert ids(engine) == ["mine-1"]


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [vars(one)["fields"] for one in caplog.records if one.message == message]


async def test_what_an_operator_does_is_logged_with_the_id_of_the_request(
    engine: ScriptedEngine, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gateway = await start_gateway(engine, environ={"REVERIE_ADMIN_KEY": ADMIN})
    admin = {"Authorization": f"Bearer {ADMIN}"}
    _, key, headers = await gateway.post({"name": "alice"}, "/admin/v1/keys", admin)
    _, _, again = await gateway.post({}, "/admin/v1/reload", {**admin, **ID})
    assert lines(caplog, "key made") == [{"id": headers["X-Request-Id"], "key": key["id"]}]
    [reloaded] = lines(caplog, "reloaded")
    assert reloaded["id"] == again["X-Request-Id"] == "mine-1"


async def test_an_engine_that_fails_is_logged_with_the_id_of_the_request(
    two: tuple[Gateway, ScriptedEngine, ScriptedEngine], caplog: pytest.LogCaptureFixture
) -> None:
    gateway, *engines = two
    for engine in engines:
        engine.scripts = [Script(status=500)]
    await gateway.post(chat(), headers=ID)
    assert {one["id"] for one in lines(caplog, "trying again")} == {"mine-1"}
