"""Livepeer's dialect towards a backend: what is sent and refused, what an ai-runner answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from reverie.backends.encoding.livepeer import base_url, check, encode
from reverie.backends.http import HttpBackend
from reverie.errors import BackendError, ContextLengthExceeded, UnsupportedParameter
from reverie.events import Delta, Event, Finish, Usage
from reverie.request import GenerateRequest

Ask = Callable[..., GenerateRequest]
Start = Callable[..., Awaitable[HttpBackend]]
Collect = Callable[..., Awaitable[list[Event]]]
StartRunner = Callable[..., Awaitable[str]]

TOOLS = [{"type": "function", "function": {"name": "f"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


def user(**more: Any) -> dict[str, Any]:
    return {"role": "user", "content": "Hi", **more}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:8000", "http://a:8000"),
        ("http://a:8000/llm", "http://a:8000"),
        ("https://a/gateway", "https://a/gateway"),
        ("https://a/gateway/llm", "https://a/gateway"),
        ("https://a/allm", "https://a/allm"),
        ("http+unix://%2Frun%2Fllm/llm", "http+unix://%2Frun%2Fllm"),
    ],
)
def test_a_url_may_have_the_route_at_its_end_or_not(url: str, expected: str) -> None:
    assert base_url(url) == expected


def test_the_seven_fields_are_sent_and_no_more(ask: Ask) -> None:
    answer = {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}
    request = ask(messages=[user(), answer, user()], top_k=5)
    check(request)
    assert json.loads(encode(request, "up")) == {
        "messages": [user(), {"role": "assistant", "content": "Hello"}, user()],
        "model": "up",
        "temperature": 0.7,
        "max_tokens": 256,
        "top_p": 1.0,
        "top_k": 5,
        "stream": True,
    }


def test_top_k_that_is_off_is_off_there(ask: Ask) -> None:
    assert json.loads(encode(ask(), "up"))["top_k"] == -1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_p": 0.1}, "min_p"),
        ({"stop": ("a",)}, "stop"),
        ({"seed": 0}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": -1.0}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": SCHEMA}, "response_format"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": TOOLS}, "tools"),
        ({"messages": [user(), user(name="Ada")]}, "messages.1.name"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "messages.0.tool_calls",
        ),
        (
            {"messages": [{"role": "tool", "content": "4", "tool_call_id": "c"}]},
            "messages.0.role",
        ),
    ],
)
def test_what_the_dialect_has_no_words_for_is_refused_by_name(
    ask: Ask, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        check(ask(**fields))
    assert caught.value.param == param
    assert param.rpartition(".")[2] in caught.value.message


def test_text_is_a_format_that_needs_no_words(ask: Ask) -> None:
    check(ask(response_format={"type": "text"}))


# An ai-runner, which answers in ways of its own --------------------------------------------


def chunk(text: str, tokens: int, reason: str = "") -> str:
    """As pydantic writes an ``LLMResponse``, every field of it."""
    delta = {"role": "assistant", "content": text}
    answer = {
        "id": "chatcmpl-1",
        "model": "up",
        "created": 1,
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens},
        "choices": [{"index": 0, "finish_reason": reason, "delta": delta, "message": None}],
    }
    return f"data: {json.dumps(answer)}\n\n"


@pytest.fixture
async def start_runner() -> AsyncIterator[StartRunner]:
    """``await start_runner(status, content_type, body)``: a server's URL."""
    async with AsyncExitStack() as stack:

        async def start(status: int, content_type: str, body: str) -> str:
            async def answer(request: web.Request) -> web.Response:
                assert (await request.json())["stream"] is True
                return web.Response(status=status, content_type=content_type, text=body)

            app = web.Application()
            app.router.add_post("/llm", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}/llm"

        yield start


@pytest.mark.parametrize("done", ["data: [DONE]\n\n", ""])
async def test_an_ai_runners_stream(
    start_runner: StartRunner, start_backend: Start, collect: Collect, done: str
) -> None:
    body = chunk("Hel", 1) + chunk("lo", 2) + chunk("", 2, "stop") + done
    backend = await start_backend(
        await start_runner(200, "text/event-stream", body), kind="livepeer"
    )
    assert await collect(backend) == [Delta("Hel"), Delta("lo"), Finish("stop"), Usage(9, 2)]


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "stop")])
async def test_stop_means_length_if_every_token_was_used_up(
    start_runner: StartRunner, start_backend: Start, collect: Collect, limit: int, reason: str
) -> None:
    body = chunk("Hel", 1) + chunk("lo", 2) + chunk("", 2, "stop")
    backend = await start_backend(
        await start_runner(200, "text/event-stream", body), kind="livepeer"
    )
    assert Finish(reason) in await collect(backend, max_tokens=limit)


async def test_an_answer_that_is_not_streamed(
    start_runner: StartRunner, start_backend: Start, collect: Collect
) -> None:
    answer = json.loads(chunk("", 2, "stop").removeprefix("data: "))
    answer["choices"][0] |= {"delta": None, "message": {"role": "assistant", "content": "Hello"}}
    url = await start_runner(200, "application/json", json.dumps(answer))
    backend = await start_backend(url, kind="livepeer")
    assert await collect(backend) == [Delta("Hello"), Finish("stop"), Usage(9, 2)]


async def test_an_answer_that_breaks_off_is_none(
    start_runner: StartRunner, start_backend: Start, collect: Collect
) -> None:
    url = await start_runner(200, "text/event-stream", chunk("Hel", 1))
    with pytest.raises(BackendError):
        await collect(await start_backend(url, kind="livepeer"))


async def test_an_error_that_is_a_bare_text_is_not_told(
    start_runner: StartRunner, start_backend: Start, collect: Collect
) -> None:
    body = 'data: {"error": "Invalid role in message: secret"}\n\n'
    url = await start_runner(200, "text/event-stream", body)
    with pytest.raises(BackendError) as caught:
        await collect(await start_backend(url, kind="livepeer"))
    assert "secret" not in caught.value.message + caught.value.reason


async def test_a_prompt_that_is_too_long_is_understood(
    start_runner: StartRunner, start_backend: Start, collect: Collect
) -> None:
    said = "Input sequence length (9031) exceeds maximum allowed (8192)"
    url = await start_runner(200, "text/event-stream", f'data: {{"error": "{said}"}}\n\n')
    with pytest.raises(ContextLengthExceeded, match=r"length is 8192 tokens\..* in 9031 tokens"):
        await collect(await start_backend(url, kind="livepeer"))
