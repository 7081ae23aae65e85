"""Conversations that are odd and yet happen, answered by the embedded engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL
from tests.harness import Gateway, StartGateway

pytestmark = pytest.mark.real

USER = {"role": "user", "content": "What is the capital of France?"}
RESULT = {"role": "tool", "content": "42", "tool_call_id": "c"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.fixture
async def real(start_gateway: StartGateway) -> Gateway:
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(
        models=[{"name": "m", "source": DEFAULT_MODEL, "slots": 2}], server={"queue_timeout": 100}
    )
    await gateway.until(lambda: gateway.pool().ready)
    return gateway


async def answer(gateway: Gateway, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"messages": list(messages), "temperature": 0, "max_tokens": 12, **more}
    status, whole, _ = await gateway.post(body, "/v1/chat/completions")
    assert status == 200, whole
    message: dict[str, Any] = whole["choices"][0]["message"]
    return message


def assistant(content: str | None, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    if arguments is not None:
        function = {"name": "f", "arguments": arguments}
        message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
    return message


async def test_a_call_with_any_arguments_is_history_like_another(real: Gateway) -> None:
    for arguments in (
        *("", " ", '{"a": "b', '{"a":1}{"b":2}', "5", "[1]", "null", "NaN", '{"a":1e999}'),
        *('{"a":"\x00"}', '{"a":"\\ud800"}', '{"a":"\\u0000"}', "\U0001f600"),
    ):
        for more in ({}, {"tools": TOOLS}):
            said = await answer(real, USER, assistant(None, arguments), RESULT, **more)
            assert said["content"] or said["tool_calls"]
    history = [USER, assistant(None, DEEP), RESULT]
    status, refusal, _ = await real.post({"messages": history}, "/v1/chat/completions")
    assert (status, refusal["error"]["code"]) == (400, "context_length_exceeded")
    state = real.pool().states[0]
    assert (state.circuit, state.failures) == ("closed", 0)


async def test_a_required_call_that_was_cut_can_be_sent_back(real: Gateway) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    asked = {"tools": tools, "tool_choice": "required"}
    for max_tokens in range(1, 20):
        cut = await answer(real, USER, max_tokens=max_tokens, **asked)
        results = [
            {**RESULT, "tool_call_id": call["id"]} for call in cut.get("tool_calls", ())
        ] or [USER]
        await answer(real, USER, cut, *results, tools=tools, max_tokens=2)


async def test_a_last_message_of_the_assistant_is_answered_and_not_gone_on_with(
    real: Gateway,
) -> None:
    for end in (
        [assistant("")],
        [assistant("The capital"), assistant("")],
        [assistant("The capital"), assistant("of France")],
        [assistant("The capital of France is")],
        [assistant(" \n")],
        [assistant(None, "{}")],
        [assistant("", reasoning_content="Hm.")],
    ):
        for more in ({}, {"tools": TOOLS}):
            said = (await answer(real, USER, *end, **more))["content"]
            assert said.strip()
            assert not said.startswith(("assistant", " Paris"))


async def test_it_is_gone_on_with_where_that_is_asked_for(real: Gateway) -> None:
    begun = assistant("The capital of France is")
    for more in ({}, {"add_generation_prompt": False}, {"tools": TOOLS}):
        said = await answer(real, USER, begun, continue_final_message=True, **more)
        assert said["content"].startswith(" Paris")
    twice = [assistant("Well."), begun]
    said = await answer(real, USER, *twice, continue_final_message=True)
    assert said["content"]
