"""A conversation that ends with the assistant, on a llama.cpp server that isn't ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from reverie.backends.http import HttpBackend
from reverie.errors import UnsupportedParameter
from reverie.request import GenerateRequest

Start = Callable[..., Awaitable[HttpBackend]]
Ask = Callable[..., GenerateRequest]

USER = {"role": "user", "content": "Hi"}
BEGUN = [USER, {"role": "assistant", "content": "The"}]


class Server:
    """Renders and answers as ``llama-server`` does. ``rendered`` is its answer to a rendering."""

    def __init__(self) -> None:
        self.rendered: Any = None
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/apply-template":
            if self.rendered is None:
                return web.Response(status=404)
            begun = (await request.json())["messages"][-1]["content"]
            text = json.dumps(self.rendered).replace("BEGUN", begun)
            return web.Response(text=text, content_type="application/json")
        choice = {"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice]})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    llama = Server()
    app = web.Application()
    app.router.add_post("/{path:.*}", llama.answer)
    async with TestServer(app) as running:
        llama.url = f"http://{running.host}:{running.port}/v1"
        yield llama


@pytest.fixture
async def backend(server: Server, start_backend: Start) -> HttpBackend:
    return await start_backend(server.url, kind="llamacpp")


async def generate(backend: HttpBackend, request: GenerateRequest) -> None:
    await backend.generate(request, lambda _: None)


async def test_it_is_refused_where_the_server_would_go_on_with_it(
    server: Server, backend: HttpBackend, ask: Ask
) -> None:
    server.rendered = {"prompt": "<user>Hello<assistant>BEGUN"}
    with pytest.raises(UnsupportedParameter, match="continue_final_message") as caught:
        await generate(backend, ask(messages=BEGUN))
    assert caught.value.param == "messages"
    assert server.asked == ["/apply-template"]


@pytest.mark.parametrize(
    "rendered", [{"prompt": "<user>Hello<assistant>BEGUN<end><assistant>"}, None, [], {"prompt": 5}]
)
async def test_it_is_sent_where_the_server_answers_it(
    server: Server, backend: HttpBackend, ask: Ask, rendered: Any
) -> None:
    server.rendered = rendered
    await generate(backend, ask(messages=BEGUN))
    assert server.asked == ["/apply-template", "/v1/chat/completions"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER]},
        {"messages": BEGUN, "continue_final_message": True},
        {"messages": BEGUN, "answer_so_far": "so"},
    ],
)
async def test_others_ask_nothing_beforehand(
    server: Server, backend: HttpBackend, ask: Ask, fields: dict[str, Any]
) -> None:
    server.rendered = {"prompt": "BEGUN"}
    await generate(backend, ask(**fields))
    assert server.asked == ["/v1/chat/completions"]
