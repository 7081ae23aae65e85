"""Requests in OpenAI's Responses dialect."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.responses import Parsed, parse, parse_to_count
from reverie.request import DEFAULT_MAX_TOKENS, GenerateRequest
from tests.http.request.conversations import conversations

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
IMAGE = "data:image/png;base64,AAAA"


def parsed(**fields: Any) -> Parsed:
    return parse(json.dumps({"model": "m", "input": "Hi", **fields}).encode())


def request(**fields: Any) -> GenerateRequest:
    return parsed(**fields).request


def messages(*items: Any, **more: Any) -> list[dict[str, Any]]:
    return request(input=list(items), **more).messages


def test_a_plain_request_has_openai_s_defaults() -> None:
    asked = request()
    assert asked.messages == [{"role": "user", "content": "Hi"}]
    assert (asked.temperature, asked.top_p, asked.stream) == (1.0, 1.0, False)
    assert asked.max_tokens == DEFAULT_MAX_TOKENS
    assert (asked.tools, asked.tool_choice, asked.response_format) == (None, None, None)


def test_instructions_and_what_developers_say_first_are_one_system_message() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]}
    user = {"type": "message", "role": "user", "content": "Hi"}
    assert messages(developer, user, developer, instructions="Be brief.") == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be kind."},
    ]


def test_the_items_of_one_turn_are_one_message() -> None:
    said = messages(
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": " "},
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "A map"},
                {"type": "input_image", "image_url": IMAGE, "detail": "low"},
            ],
        },
    )
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    image = {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}
    assert said == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": calls,
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "A map"},
        {"role": "user", "content": [image]},
    ]


def to_items(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as this dialect's clients send it back."""
    items: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            output = {"call_id": message["tool_call_id"], "output": message["content"]}
            items.append({"type": "function_call_output", **output})
            continue
        if "reasoning_content" in message:
            text = {"type": "reasoning_text", "text": message["reasoning_content"]}
            items.append({"type": "reasoning", "id": "rs_1", "summary": [], "content": [text]})
        if message["content"] is not None:
            content = message["content"]
            if isinstance(content, list):
                content = [_part(part) for part in content]
            items.append({"role": message["role"], "content": content})
        for call in message.get("tool_calls", ()):
            items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    return items


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "image_url":
        return {"type": "input_image", "image_url": part["image_url"]["url"]}
    return {"type": "input_text", "text": part["text"]}


@given(conversation=conversations())
def test_a_conversation_comes_through_whole(conversation: list[dict[str, Any]]) -> None:
    assert messages(*to_items(conversation)) == conversation


@pytest.mark.parametrize(
    ("choice", "given", "offered"),
    [
        (None, None, ["f", "g"]),
        ("required", "required", ["f", "g"]),
        ("none", "none", ["f", "g"]),
        (
            {"type": "function", "name": "f"},
            {"type": "function", "function": {"name": "f"}},
            ["f", "g"],
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "g"}],
            },
            "required",
            ["g"],
        ),
    ],
)
def test_tools_and_which_is_called(choice: Any, given: Any, offered: list[str]) -> None:
    asked = request(tools=[TOOL, {**TOOL, "name": "g", "strict": True}], tool_choice=choice)
    assert asked.tool_choice == given
    assert [tool["function"]["name"] for tool in asked.tools or ()] == offered


def test_formats_efforts_and_logprobs() -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    asked = request(
        text={"format": form, "verbosity": "low"},
        reasoning={"effort": "max", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
    )
    wanted = {"name": "x", "schema": {"type": "object"}, "strict": True}
    assert asked.response_format == {"type": "json_schema", "json_schema": wanted}
    assert (asked.reasoning_effort, asked.logprobs, asked.top_logprobs) == ("xhigh", True, 2)
    assert request(text={"format": {"type": "json_object"}}).response_format == {
        "type": "json_object"
    }
    assert request(text={"format": {"type": "text"}}).response_format is None


def test_what_codex_sends_is_taken_and_only_what_has_no_effect_is_told() -> None:
    got = parsed(
        instructions="You are Codex.",
        tools=[TOOL, {"type": "web_search", "external_web_access": False}, {"type": "custom"}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        service_tier="priority",
        prompt_cache_key="thread-1",
        text={"verbosity": "medium"},
        client_metadata={"x": "y"},
        previous_response_id=None,
        brand_new=1,
    )
    assert got.ignored == ("brand_new", "tools[custom]", "tools[web_search]")
    assert [tool["function"]["name"] for tool in got.request.tools or ()] == ["f"]
    assert got.request.parallel_tool_calls is False
    assert not got.keep


def test_the_answer_repeats_what_was_asked() -> None:
    fields = parsed(tools=[TOOL], metadata={"a": "b"}, max_output_tokens=9).echo
    echo = json.loads(b'{"id":1' + fields + b"}")
    assert (echo["tools"], echo["metadata"]) == ([TOOL], {"a": "b"})
    assert (echo["max_output_tokens"], echo["tool_choice"], echo["store"]) == (9, "auto", False)
    assert (echo["parallel_tool_calls"], echo["truncation"]) == (True, "disabled")
    assert not parsed().summary
    assert parsed(reasoning={"summary": "auto"}).summary


def test_an_answer_is_kept_only_if_that_is_asked() -> None:
    assert parsed(store=True).keep
    assert not parsed(store=None).keep


def test_only_the_prompt_may_be_counted() -> None:
    assert parse_to_count(b'{"input": "Hi"}').messages == [{"role": "user", "content": "Hi"}]


REFERENCE = {"type": "item_reference", "id": "msg_1"}


@pytest.mark.parametrize(
    ("given", "param", "unsupported"),
    [
        ({"input": None}, "input", False),
        ({"input": []}, "input", False),
        ({"input": 7}, "input", False),
        ({"input": [{"type": "web_search_call"}]}, "input", False),
        ({"input": [REFERENCE]}, "input.0.type", True),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role", False),
        ({"input": [{"role": "user"}]}, "input.0.content", False),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input.0.content.0.type",
            True,
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
            True,
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "No"}]}]},
            "input.0.content",
            False,
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id", False),
        ({"previous_response_id": "resp_1"}, "previous_response_id", True),
        ({"conversation": "c"}, "conversation", True),
        ({"prompt": {"id": "p"}}, "prompt", True),
        ({"background": True}, "background", True),
        ({"temperature": 3}, "temperature", False),
        ({"max_output_tokens": 0}, "max_output_tokens", False),
        ({"stream": "yes"}, "stream", False),
        ({"tool_choice": "required"}, "tool_choice", False),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name", False),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", True),
        ({"tools": [TOOL, TOOL]}, "tools.1.name", False),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name", False),
        ({"tools": [{**TOOL, "parameters": {"type": 3}}]}, "tools.0.parameters", False),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", False),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", False),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", False),
    ],
)
def test_a_mistake_names_its_field(given: dict[str, Any], param: str, unsupported: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**given)
    assert refused.value.param == param
    assert isinstance(refused.value, UnsupportedParameter) is unsupported


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "name", "call_id", "output", "image_url"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = ("input", "tools", "tool_choice", "text", "reasoning", "include", "stream", "instructions")


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_comes_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parsed(**fields).request.messages


@pytest.mark.parametrize("field", ["input", "tools", "text", "metadata"])
def test_what_is_nested_too_deeply_is_refused(field: str) -> None:
    deep = b'{"input":"Hi","%b":%b1%b}' % (field.encode(), b"[" * 50_000, b"]" * 50_000)
    with pytest.raises(InvalidRequest):
        parse(deep)
