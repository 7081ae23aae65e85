"""Two Reveries in a row: the one in front reaches the other's ``/llm`` by ``kind = "livepeer"``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

KEY = "k" * 32

StartRow = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start_row(engine: ScriptedEngine, start_gateway: StartGateway) -> StartRow:
    """``await start_row(behind={…}, backend={…}, environ={…})``: the one in front."""

    async def start(
        behind: dict[str, Any] | None = None,
        backend: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
    ) -> Gateway:
        back = await start_gateway(engine, **(behind or {}))
        reached = {"url": f"{back.url}/llm", "kind": "livepeer", **(backend or {})}
        return await start_gateway(models=[{"name": "m", "backends": [reached]}], environ=environ)

    return start


async def stream(gateway: Gateway, path: str = "/llm", **more: Any) -> list[str]:
    """The payloads of a stream."""
    body = chat(stream=True, **more)
    async with gateway.http.post(gateway.url + path, json=body) as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("limit", "text", "reason", "tokens"),
    [(9, "Hello world", "stop", 2), (1, "Hello", "length", 1)],
)
async def test_an_answer_passes_through(
    start_row: StartRow, path: str, limit: int, text: str, reason: str, tokens: int
) -> None:
    front = await start_row()
    status, answer, _ = await front.post(chat(max_tokens=limit), path)
    assert status == 200
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (10, tokens)


async def test_a_stream_passes_through(start_row: StartRow) -> None:
    front = await start_row()
    *chunks, done = await stream(front)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [choice["delta"]["content"] for choice in choices] == ["Hello", " world", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert json.loads(chunks[-1])["usage"]["completion_tokens"] == 2


async def test_a_token_passes_through_before_the_next_one_exists(
    engine: ScriptedEngine, start_row: StartRow
) -> None:
    front = await start_row()
    engine.script = Script(tokens=("one", "two"), stall_after=1)
    async with front.http.post(front.url + "/llm", json=chat(stream=True)) as response:
        async with asyncio.timeout(30):
            while b"one" not in await response.content.readline():
                pass
        assert engine.stalled == 1
        engine.resume()
        assert b"[DONE]" in await response.read()


async def test_the_engine_is_asked_for_what_the_client_asked_for(
    engine: ScriptedEngine, start_row: StartRow
) -> None:
    front = await start_row()
    fields = {"temperature": 0.1, "max_tokens": 7, "top_p": 0.5, "top_k": 3}
    assert (await front.post(chat(**fields)))[0] == 200
    assert fields.items() <= engine.requests[0].body.items()


@pytest.mark.parametrize("field", [{"seed": 1}, {"stop": ["x"]}, {"min_p": 0.1}])
async def test_what_the_dialect_cannot_say_is_refused_in_front(
    engine: ScriptedEngine, start_row: StartRow, field: dict[str, Any]
) -> None:
    front = await start_row()
    status, answer, _ = await front.post(chat(**field))
    assert (status, answer["error"]["code"]) == (422, "unsupported_parameter")
    assert [answer["error"]["param"]] == list(field)
    assert engine.requests == []


async def test_the_key_of_the_one_behind_is_sent(start_row: StartRow) -> None:
    front = await start_row(
        behind={"environ": {"REVERIE_API_KEYS": KEY}},
        backend={"api_key_env": "BEHIND"},
        environ={"BEHIND": KEY},
    )
    assert (await front.post(chat()))[0] == 200


async def test_a_key_that_is_refused_is_no_fault_of_the_client(start_row: StartRow) -> None:
    front = await start_row(behind={"environ": {"REVERIE_API_KEYS": KEY}})
    status, answer, _ = await front.post(chat())
    assert (status, answer["error"]["code"]) == (502, "backend_error")
    assert "credentials" in answer["detail"]["msg"]


async def test_a_model_that_is_not_behind_is_no_fault_of_the_client(start_row: StartRow) -> None:
    front = await start_row(backend={"model": "another"})
    status, answer, _ = await front.post(chat())
    assert (status, answer["error"]["code"]) == (502, "backend_error")


async def test_a_prompt_that_is_too_long_is_told_with_both_numbers(
    engine: ScriptedEngine, start_row: StartRow
) -> None:
    front = await start_row()
    overflow = {"type": "exceed_context_size_error", "n_prompt_tokens": 9031, "n_ctx": 8192}
    engine.script = Script(status=400, error=overflow)
    status, answer, _ = await front.post(chat())
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "9031" in answer["error"]["message"]
    assert "8192" in answer["error"]["message"]


async def test_an_overload_behind_is_one_in_front(
    engine: ScriptedEngine, start_row: StartRow
) -> None:
    front = await start_row()
    engine.script = Script(status=503, retry_after=7)
    status, answer, headers = await front.post(chat())
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert int(headers["Retry-After"]) >= 1


async def test_an_answer_that_breaks_off_behind_never_looks_complete(
    engine: ScriptedEngine, start_row: StartRow
) -> None:
    front = await start_row()
    engine.script = Script(tokens=("one", "two"), die_after=1)
    *_, last = await stream(front)
    assert json.loads(last)["choices"][0]["finish_reason"] == "error"
    assert json.loads(last)["error"]["code"] == "backend_error"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_stops_the_engine_behind(
    engine: ScriptedEngine, start_row: StartRow, streamed: bool
) -> None:
    front = await start_row()
    engine.script = Script(tokens=("one", "two"), stall_after=1)
    asking = asyncio.create_task(front.post(chat(stream=streamed)))
    await engine.wait_for(lambda e: e.stalled == 1)
    asking.cancel()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await front.until(lambda: front.pool().in_flight == 0)
