"""The generation routes, over a scripted engine: what docs/protocol.md promises of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

LLM, OPENAI = "/llm", "/v1/chat/completions"


async def events(gateway: Gateway, body: Any, path: str = LLM) -> list[str]:
    """The payloads of a stream, as they are on the wire."""
    async with gateway.http.post(gateway.url + path, json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        text = await response.text()
    return [line[6:] for line in text.split("\n") if line.startswith("data: ")]


async def test_an_answer_is_one_json_body(gateway: Gateway) -> None:
    for path in (LLM, "/llm/", OPENAI, "/chat/completions", "/llm/chat/completions"):
        status, answer, headers = await gateway.post(chat(), path)
        assert status == 200
        assert headers["x-request-id"]
        (choice,) = answer["choices"]
        assert choice == {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world"},
            "finish_reason": "stop",
        }
        assert answer["object"] == "chat.completion"
        assert answer["model"] == "m"
        assert answer["usage"]["total_tokens"] == 12


async def test_a_livepeer_stream_carries_role_and_usage_and_never_lacks_a_choice(
    gateway: Gateway,
) -> None:
    *chunks, done = await events(gateway, chat())
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert [chunk["choices"][0]["delta"] for chunk in parsed] == [
        {"role": "assistant", "content": "Hello"},
        {"role": "assistant", "content": " world"},
        {"role": "assistant", "content": ""},
    ]
    assert parsed[-1]["choices"][0]["finish_reason"] == "stop"
    assert parsed[-1]["usage"]["completion_tokens"] == 2
    assert all("usage" not in chunk for chunk in parsed[:-1])
    assert all("message" not in chunk["choices"][0] for chunk in parsed)


async def test_an_openai_stream_sends_usage_only_if_asked(gateway: Gateway) -> None:
    *plain, done = await events(gateway, chat(), OPENAI)
    assert done == "[DONE]"
    assert all("usage" not in json.loads(chunk) for chunk in plain)
    *asked, _ = await events(gateway, chat(stream_options={"include_usage": True}), OPENAI)
    last = json.loads(asked[-1])
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 12


async def test_the_body_decides_the_form_and_the_accept_header_does_not(gateway: Gateway) -> None:
    status, answer, _ = await gateway.post(chat(), headers={"Accept": "text/event-stream"})
    assert status == 200
    assert answer["object"] == "chat.completion"


async def test_a_token_is_never_held_back_for_the_next_one(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("first", "second"), stall_after=1)
    async with gateway.http.post(gateway.url + LLM, json=chat(stream=True)) as response:
        assert b"first" in await asyncio.wait_for(response.content.readline(), 5)


async def test_only_fields_of_the_protocol_reach_an_engine_and_no_client_header_does(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    await gateway.post(
        chat(user="u", metadata={"a": "b"}, seed=3, top_k=-1, stop="x"),
        headers={"X-Conversation-Id": "c", "Authorization": "Bearer client-key", "Cookie": "a=b"},
    )
    (request,) = engine.requests
    assert "x-conversation-id" not in request.headers
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers
    assert set(request.body) == {
        "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens",
        "seed", "stop",
    }  # fmt: skip
    assert request.body["temperature"] == 0.7
    assert request.body["max_tokens"] == 256


@pytest.mark.parametrize("name", ["", None, "m", "alias"])
async def test_a_model_answers_to_its_names_and_to_none(gateway: Gateway, name: str | None) -> None:
    status, answer, _ = await gateway.post(chat(model=name))
    assert status == 200
    assert answer["model"] == "m"


REFUSED = [
    (chat(model="nope"), "model_not_found", 400, 404, "model"),
    (b"{", "invalid_request", 422, 400, None),
    (b"\xff\xfe", "invalid_request", 422, 400, None),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
     "invalid_request", 422, 400, None),
    (b"[" * 100_000, "invalid_request", 422, 400, None),
    ({}, "invalid_request", 422, 400, "messages"),
    ({"messages": []}, "invalid_request", 422, 400, "messages"),
    (chat(temperature=2.1), "invalid_request", 422, 400, "temperature"),
    (chat(max_tokens=0), "invalid_request", 422, 400, "max_tokens"),
    (chat(stream="yes"), "invalid_request", 422, 400, "stream"),
    (chat(frobnicate=1), "unsupported_parameter", 422, 400, "frobnicate"),
    (chat(n=17), "invalid_request", 422, 400, "n"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "on_llm", "on_v1", "param"), REFUSED)
async def test_each_mistake_has_its_status_its_code_and_its_field(
    engine: ScriptedEngine,
    gateway: Gateway,
    body: Any,
    code: str,
    on_llm: int,
    on_v1: int,
    param: str | None,
) -> None:
    for path, expected in ((LLM, on_llm), (OPENAI, on_v1)):
        status, answer, headers = await gateway.post(body, path)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (
            expected,
            code,
            param,
        )
        assert headers["x-request-id"]
        message = answer["error"]["message"]
        if status == 422:
            assert answer["detail"][0]["loc"][0] == "body"
        else:
            assert answer["detail"] == {"msg": message}
    assert engine.requests == []


FAILURES = [
    (Script(status=500), 502, "backend_error"),
    (Script(status=401), 502, "backend_error"),
    (Script(status=404), 502, "backend_error"),
    (Script(html=True), 502, "backend_error"),
    (Script(body=b"\x00\x01garbage"), 502, "backend_error"),
    (Script(status=503), 503, "overloaded"),
    (Script(status=429), 503, "overloaded"),
    (Script(status=400), 400, "invalid_request"),
    (Script(die_after=0), 502, "backend_error"),
    (Script(error_in_stream={"message": "CUDA error at /srv/x.cu", "type": "x"}, error_after=0),
     502, "backend_error"),
    (Script(tokens=("a", "b"), delay=0.02, no_finish=True), 502, "backend_error"),
    (Script(tokens=("a", "b"), die_after=1, die_how="end"), 502, "backend_error"),
    (Script(no_finish=True), 502, "backend_error"),
    (Script(stall_after=0), 504, "backend_timeout"),
    (
        Script(
            status=400,
            error={"type": "exceed_context_size_error", "message": "m", "code": 400,
                   "n_prompt_tokens": 9001, "n_ctx": 8192},
        ),
        400,
        "context_length_exceeded",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("script", "status", "code"), FAILURES)
async def test_a_backend_that_fails_before_the_first_token_has_a_true_status(
    engine: ScriptedEngine, start_gateway: StartGateway, script: Script, status: int, code: str
) -> None:
    gateway = await start_gateway(engine, server={"first_token_timeout": 0.2, "stall_timeout": 0.2})
    engine.script = script
    for path in (LLM, OPENAI):
        got, answer, _ = await gateway.post(chat(), path)
        assert (got, answer["error"]["code"]) == (status, code)
        assert "CUDA" not in json.dumps(answer)
        assert gateway.pool().in_flight == 0
    if code == "context_length_exceeded":
        assert "9001" in answer["error"]["message"]
        assert "8192" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(tokens=("a", "b"), delay=0.05, die_after=1), "backend_error"),
        (Script(tokens=("a", "b"), delay=0.05, die_after=1, die_how="close"), "backend_error"),
        (Script(tokens=("a", "b"), delay=0.05, die_after=1, die_how="end"), "backend_error"),
        (Script(tokens=("a", "b"), stall_after=1), "backend_timeout"),
        (
            Script(
                tokens=("a", "b", "c"),
                delay=0.05,
                error_in_stream={"message": "secret"},
                error_after=2,
            ),
            "backend_error",
        ),
        (Script(tokens=("a", "b"), delay=0.05, no_finish=True), "backend_error"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [LLM, OPENAI])
async def test_a_stream_that_breaks_ends_with_an_error_chunk_and_a_closed_connection(
    engine: ScriptedEngine, start_gateway: StartGateway, script: Script, code: str, path: str
) -> None:
    gateway = await start_gateway(engine, server={"stall_timeout": 0.2})
    engine.script = script
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    body = json.dumps(chat(stream=True)).encode()
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    received = await asyncio.wait_for(reader.read(), 10)  # ends only if the server closes
    writer.close()
    assert received.endswith(b"0\r\n\r\n")
    lines = [line[6:] for line in received.split(b"\n") if line.startswith(b"data: ")]
    assert b"[DONE]" not in received
    assert b"secret" not in received
    last = json.loads(lines[-1])
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["choices"][0]["delta"].get("content") == ""
    assert last["error"]["code"] == code
    assert json.loads(lines[0])["choices"][0]["delta"]["content"] == "a"


async def test_a_client_whose_stream_broke_can_use_its_connection_for_the_next_try(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    url = gateway.url + "/llm"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        for _ in range(5):
            engine.script = Script(tokens=("a", "b"), delay=0.02, no_finish=True)
            async with http.post(url, json=chat(stream=True)) as response:
                assert "error" in await response.text()
            engine.script = Script(tokens=("a",))
            async with http.post(url, json=chat()) as response:
                assert response.status == 200


async def test_a_backend_that_can_not_be_reached_is_a_502(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.kill()
    status, answer, _ = await gateway.post(chat())
    assert (status, answer["error"]["code"]) == (502, "backend_error")


async def test_a_kept_connection_that_the_engine_closed_costs_no_request(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    assert (await gateway.post(chat()))[0] == 200
    engine.kill()
    await engine.restart()
    assert (await gateway.post(chat()))[0] == 200


async def test_another_backend_is_tried_before_the_first_token(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with ScriptedEngine(Script(tokens=("from", " the", " second"))) as second:
        engine.script = Script(status=500)
        gateway = await start_gateway(engine, second)
        for number in range(20):  # as many conversations, some of which belong on the first
            status, answer, _ = await gateway.post(chat(f"Question {number}"))
            assert status == 200
            assert answer["choices"][0]["message"]["content"] == "from the second"
    assert engine.requests


async def test_a_clients_own_fault_is_not_tried_elsewhere(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with ScriptedEngine(Script(status=400)) as second:
        engine.script = Script(status=400)
        gateway = await start_gateway(engine, second)
        assert (await gateway.post(chat()))[0] == 400
        assert len(engine.requests) + len(second.requests) == 1


async def test_a_body_over_the_limit_is_refused_and_the_answer_can_be_read(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    status, answer, _ = await gateway.post(b"x" * (10 * 1024 * 1024 + 1))
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    status, answer, _ = await gateway.post(
        json.dumps(chat("y" * (10 * 1024 * 1024 - 1000))).encode()
    )
    assert status == 200


async def test_a_body_that_trickles_is_refused(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server={"body_timeout": 0.1})
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    writer.write(b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in received


async def test_a_key_is_checked_before_the_body_is_read(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "right"})
    reader, writer = await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":"))
    writer.write(b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)  # and no body is ever sent
    writer.close()
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: bearer" in head.lower()
    status, answer, _ = await gateway.post(b"not json", headers={"Authorization": "Bearer wrong"})
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    status, _, _ = await gateway.post(chat(), headers={"Authorization": "Bearer right"})
    assert status == 200


async def test_wrong_methods_and_routes_are_said_in_the_same_shape(gateway: Gateway) -> None:
    async with gateway.http.get(gateway.url + LLM) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"
    status, answer, headers = await gateway.get("/nowhere")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert headers["x-request-id"]
    async with gateway.http.post(gateway.url + "/health") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"


async def test_a_full_queue_and_a_passed_deadline_are_503_with_a_time_to_return(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, backend={"slots": 1}, server={"queue_size": 1, "queue_timeout": 0.3}
    )
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    running = asyncio.create_task(gateway.post(chat()))
    await gateway.until(lambda: gateway.pool().in_flight == 1)
    waiting = asyncio.create_task(gateway.post(chat()))
    await gateway.until(lambda: gateway.pool().waiting == 1)
    for result in (await gateway.post(chat()), await waiting):
        status, answer, headers = result
        assert (status, answer["error"]["code"]) == (503, "overloaded")
        assert int(headers["Retry-After"]) >= 1
    running.cancel()


async def test_silence_is_bridged_and_the_status_stays_open_for_a_while(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server={"commit_delay": 0.05, "ping_interval": 0.05})
    engine.script = Script(tokens=("late",), first_delay=0.3)
    async with gateway.http.post(gateway.url + LLM, json=chat(stream=True)) as response:
        text = await response.text()
    assert text.startswith(": ping\n\n")
    assert text.count(": ping\n\n") >= 2
    assert '"late"' in text
    assert text.endswith("data: [DONE]\n\n")
    engine.script = Script(status=500, delay_headers=0.3)
    async with gateway.http.post(gateway.url + LLM, json=chat(stream=True)) as response:
        assert response.status == 200  # too late for another one: the error is in the stream
        assert '"finish_reason":"error"' in await response.text()


@pytest.mark.parametrize("usage", [{"completion_tokens": -5}, {"prompt_tokens": 10**30}])
async def test_an_engine_that_can_not_count_spoils_nothing(
    engine: ScriptedEngine,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    usage: dict[str, int],
) -> None:
    choices = [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]
    body = json.dumps({"choices": choices, "usage": usage}).encode()
    engine.script = Script(body=body, headers={"Content-Type": "application/json"})
    status, answer, _ = await gateway.post(chat())
    assert (status, answer["usage"]["completion_tokens"]) == (200, 1)
    assert not [line for line in caplog.records if line.levelname == "ERROR" or line.exc_info]


# Images -------------------------------------------------------------------------------------


SEEN = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]


@pytest.mark.parametrize("path", [LLM, OPENAI])
async def test_an_image_reaches_the_engine_that_sees(
    start_gateway: StartGateway, engine: ScriptedEngine, path: str
) -> None:
    gateway = await start_gateway(
        models=[{"name": "m", "backends": [{"url": engine.url, "vision": True}]}]
    )
    status, answer, _ = await gateway.post(chat(messages=[{"role": "user", "content": SEEN}]), path)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello world")
    assert engine.requests[-1].body["messages"] == [{"role": "user", "content": SEEN}]


async def test_an_image_is_refused_by_name_unless_all_backends_see(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    backends = [{"url": engine.url, "vision": True}, {"url": engine.url.replace("1/v1", "1/v1/")}]
    gateway = await start_gateway(models=[{"name": "m", "backends": backends}])
    asked = chat(messages=[{"role": "user", "content": SEEN}])
    for path, expected in ((LLM, 422), (OPENAI, 400)):
        status, answer, _ = await gateway.post(asked, path)
        error = answer["error"]
        assert (status, error["code"]) == (expected, "unsupported_parameter")
        assert error["param"] == "messages.0.content"
    assert engine.generations == 0
