"""The streaming routes: how each is asked, read, and what of an answer it can say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import aiohttp
import pytest

from reverie.testing import Script
from tests.harness import Gateway
from tests.http.conformance.readers.chat import ChatReader
from tests.http.conformance.readers.completions import CompletionsReader
from tests.http.conformance.readers.messages import MessagesReader
from tests.http.conformance.readers.ollama import OllamaReader
from tests.http.conformance.readers.reading import Call, Choice, Reader, Reading
from tests.http.conformance.readers.responses import ResponsesReader

SERVER = {"ollama": True}
QUESTION = "Say something."
_PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}


class Wants(NamedTuple):
    """What a request asks for, in no dialect yet."""

    max_tokens: int = 400
    tools: bool = False
    stop: tuple[str, ...] = ()
    logprobs: bool = False


PLAIN = Wants()


class Route(NamedTuple):
    name: str
    path: str
    ask: Callable[[Wants], dict[str, Any]]
    reader: Callable[[], Reader]
    can: frozenset[str]
    """Of ``reasoning``, ``tools``, ``logprobs``, ``stop`` and ``finish`` (it tells calls from
    other ends)."""
    choices: int = 1

    def body(self, wants: Wants = PLAIN, **more: Any) -> dict[str, Any]:
        return {"model": "m", **self.ask(wants), **more}

    def expected(self, script: Script, wants: Wants = PLAIN, text: str | None = None) -> Any:
        """What is to be read of a script's answer, unless ``max_tokens`` cuts it."""
        assert not callable(script.tokens)
        joined = b"".join(one if isinstance(one, bytes) else one.encode() for one in script.tokens)
        choice = Choice(joined.decode() if text is None else text, "".join(script.reasoning))
        choice.finish = script.finish_reason or "stop"
        calls = [(call.id, call.name, "".join(call.arguments)) for call in script.tool_calls]
        if calls and "finish" in self.can:
            choice.finish = "tool_calls"
        if wants.logprobs:
            choice.tokens = [str(token) for token in script.tokens]
        said = list(choice.said)
        said[3] = [(id, name, _object(arguments)) for id, name, arguments in calls]
        return [tuple(said)] * self.choices

    async def stream(self, gateway: Gateway, wants: Wants = PLAIN, **headers: str) -> Reading:
        return self.reader().stream(await self.written(gateway, wants, **headers))

    async def written(self, gateway: Gateway, wants: Wants = PLAIN, **headers: str) -> bytes:
        """The bytes of a stream; headers as for ``opened``."""
        async with self.opened(gateway, wants, **headers) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    def opened(
        self, gateway: Gateway, wants: Wants = PLAIN, **headers: str
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """A stream to read from; ``last_event_id`` is the header ``Last-Event-ID``, and so on."""
        body = self.body(wants, stream=True)
        if self.path in ("/v1/chat/completions", "/v1/completions"):
            body["stream_options"] = {"include_usage": True}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return gateway.http.post(gateway.url + self.path, json=body, headers=named)

    async def whole(self, gateway: Gateway, wants: Wants = PLAIN) -> Reading:
        body = self.body(wants, stream=False)
        async with gateway.http.post(gateway.url + self.path, json=body) as response:
            assert response.status == 200, await response.text()
            return self.reader().whole(await response.read())


def _object(arguments: str) -> Any:
    return Call("", "", arguments).value


def _function(**more: Any) -> dict[str, Any]:
    return {"name": "f", "parameters": _PARAMETERS, **more}


def _chat(wants: Wants) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": wants.max_tokens,
        "temperature": 0,
    }
    if wants.tools:
        body["tools"] = [
            {"type": "function", "function": _function()},
            {"type": "function", "function": _function(name="g")},
        ]
    if wants.stop:
        body["stop"] = list(wants.stop)
    if wants.logprobs:
        body |= {"logprobs": True, "top_logprobs": 2}
    return body


def _chat_of_two(wants: Wants) -> dict[str, Any]:
    return {**_chat(wants), "n": 2}


def _completions(wants: Wants) -> dict[str, Any]:
    body = {"prompt": QUESTION, "max_tokens": wants.max_tokens, "temperature": 0}
    return body | ({"logprobs": 2} if wants.logprobs else {})


def _messages(wants: Wants) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": wants.max_tokens,
        "temperature": 0,
    }
    if wants.tools:
        body["tools"] = [{"name": name, "input_schema": _PARAMETERS} for name in "fg"]
    if wants.stop:
        body["stop_sequences"] = list(wants.stop)
    return body


def _responses(wants: Wants) -> dict[str, Any]:
    body: dict[str, Any] = {
        "input": QUESTION,
        "max_output_tokens": wants.max_tokens,
        "temperature": 0,
    }
    if wants.tools:
        body["tools"] = [{"type": "function", **_function(name=name)} for name in "fg"]
    if wants.logprobs:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    return body


def _options(wants: Wants) -> dict[str, Any]:
    more = {"logprobs": True, "top_logprobs": 2} if wants.logprobs else {}
    return {"options": {"num_predict": wants.max_tokens, "temperature": 0}, **more}


def _ollama_chat(wants: Wants) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": QUESTION}], **_options(wants)}
    if wants.tools:
        body["tools"] = _chat(wants)["tools"]
    return body


def _ollama_generate(wants: Wants) -> dict[str, Any]:
    return {"prompt": QUESTION, **_options(wants)}


_ALL = frozenset({"reasoning", "tools", "logprobs", "finish"})
ROUTES = (
    Route("llm", "/llm", _chat, lambda: ChatReader(livepeer=True), _ALL),
    Route("chat", "/v1/chat/completions", _chat, ChatReader, _ALL),
    Route("chat-n2", "/v1/chat/completions", _chat_of_two, lambda: ChatReader(2), _ALL, 2),
    Route("completions", "/v1/completions", _completions, CompletionsReader, _ALL & {"logprobs"}),
    Route("messages", "/v1/messages", _messages, MessagesReader, _ALL - {"logprobs"} | {"stop"}),
    Route("responses", "/v1/responses", _responses, ResponsesReader, _ALL - {"finish"}),
    Route(
        "ollama-chat",
        "/api/chat",
        _ollama_chat,
        lambda: OllamaReader(chat=True),
        _ALL - {"finish"},
    ),
    Route(
        "ollama-generate",
        "/api/generate",
        _ollama_generate,
        lambda: OllamaReader(chat=False),
        _ALL - {"finish", "tools"},
    ),
)
EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
NUMBERED = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.reader().numbered], ids=lambda route: route.name
)
