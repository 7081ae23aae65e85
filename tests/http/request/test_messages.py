"""Requests in Anthropic's dialect: what is known is checked, and what isn't is ignored and told."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import InvalidRequest
from reverie.http.request.messages import Parsed, parse
from reverie.request import GenerateRequest
from tests.http.request.conversations import conversations

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "f", "description": "It.", "input_schema": {"type": "object"}}


def parsed(**fields: Any) -> Parsed:
    return parse(json.dumps({"model": "m", "max_tokens": 9, "messages": [USER], **fields}).encode())


def request(**fields: Any) -> GenerateRequest:
    return parsed(**fields).request


def messages(*given: Any, **more: Any) -> list[dict[str, Any]]:
    return request(messages=list(given), **more).messages


def test_a_plain_request_has_anthropic_s_defaults() -> None:
    asked = request()
    assert (asked.max_tokens, asked.temperature, asked.stream) == (9, 1.0, False)
    assert (asked.messages, asked.tools, asked.stop) == ([USER], None, ())


def test_the_system_prompt_comes_first_as_text_or_blocks() -> None:
    assert messages(USER, system="Be brief.")[0] == {"role": "system", "content": "Be brief."}
    blocks = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert messages(USER, system=blocks)[0]["content"] == "Be brief.\nBe kind."


def test_the_billing_header_is_left_out_so_that_prompts_begin_alike() -> None:
    def prompt(hexadecimal: str) -> list[dict[str, Any]]:
        billing = f"x-anthropic-billing-header: cc_version=2; cch={hexadecimal};"
        return messages(
            USER, system=[{"type": "text", "text": billing}, {"type": "text", "text": "A"}]
        )

    assert prompt("00000") == prompt("fffff") == [{"role": "system", "content": "A"}, USER]


def test_calls_and_their_results_become_turns_of_their_own() -> None:
    said = messages(
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "such"}],
                },
                {"type": "tool_result", "tool_use_id": "t3"},
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "system", "content": "Reminder."},
    )
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert said == [
        USER,
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "t2", "content": "no\nsuch"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": "Go on."},
        {"role": "system", "content": "Reminder."},
    ]


def test_images_are_parts_also_those_of_a_tool() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    image = {"type": "image", "source": source}
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": "What?"}
    assert messages({"role": "user", "content": [image, text]}) == [
        {"role": "user", "content": [part, text]}
    ]
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image, text]}
    assert messages({"role": "user", "content": [result]}) == [
        {"role": "tool", "tool_call_id": "t", "content": "What?"},
        {"role": "user", "content": [part]},
    ]
    linked = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    (only,) = messages({"role": "user", "content": [linked]})
    assert only["content"][0]["image_url"]["url"] == "https://x/a.png"


@pytest.mark.parametrize(
    ("choice", "given"),
    [
        (None, None),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_and_which_is_called(choice: Any, given: Any) -> None:
    asked = request(tools=[TOOL], tool_choice=choice)
    function = {"name": "f", "description": "It.", "parameters": {"type": "object"}}
    assert asked.tools == [{"type": "function", "function": function}]
    assert asked.tool_choice == given


def test_only_one_call_at_a_time_where_that_is_asked() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert request(tools=[TOOL], tool_choice=choice).parallel_tool_calls is False
    assert request(tools=[TOOL]).parallel_tool_calls is None


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "max"}}, "xhigh"),
    ],
)
def test_how_much_the_model_thinks(fields: dict[str, Any], effort: str | None) -> None:
    assert request(**fields).reasoning_effort == effort


def test_an_answer_can_be_held_to_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"format": {"type": "json_schema", "schema": schema}}
    asked = request(output_config=form)
    assert asked.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }


def test_what_is_not_known_is_ignored_and_told() -> None:
    found = parsed(
        context_management={"edits": []},
        tools=[
            {**TOOL, "defer_loading": True, "cache_control": {"type": "ephemeral"}},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        ],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "data": "x"}},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
                ],
            }
        ],
    )
    assert found.request.messages == [USER]
    assert [tool["function"]["name"] for tool in found.request.tools or ()] == ["f"]
    assert {"context_management", "tools.defer_loading", "messages.content[document]"} <= set(
        found.ignored
    )
    assert "tools[web_search_20250305]" in found.ignored
    assert not [name for name in found.ignored if "cache_control" in name]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
        ),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools.1.name"),
        ({"tools": [{**TOOL, "input_schema": {"type": 7}}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "input_schema": {"$ref": "http://x/"}}]}, "tools.0.input_schema"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": 7}}}},
            "output_config.format.schema",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
    ],
)
def test_a_mistake_names_its_field(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**given)
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELD = st.sampled_from(
    ["messages", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences"]
)


@given(st.dictionaries(FIELD, JSON, max_size=3))
def test_whatever_comes_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        request(**fields)


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "***"}, "data"),
        ({"type": "base64", "media_type": "image/png", "data": ""}, "data"),
        ({"type": "base64", "media_type": "image/tiff", "data": "AAAA"}, "media_type"),
        ({"type": "url", "url": "file:///etc/passwd"}, "url"),
    ],
)
def test_what_is_no_image_is_named(source: dict[str, Any], field: str) -> None:
    image = {"type": "image", "source": source}
    with pytest.raises(InvalidRequest) as caught:
        request(messages=[{"role": "user", "content": [image]}])
    assert caught.value.param == f"messages.0.content.0.source.{field}"


def test_images_are_bounded() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    assert request(messages=[{"role": "user", "content": [image] * 64}]).images == 64
    with pytest.raises(InvalidRequest, match="64 or fewer images"):
        request(messages=[{"role": "user", "content": [image] * 65}])


def test_an_answer_that_the_assistant_has_begun_goes_on() -> None:
    begun = [USER, {"role": "assistant", "content": "The answer is"}]
    assert request(messages=begun).continue_final_message
    assert not request(messages=[*begun, USER]).continue_final_message
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    assert not request(
        messages=[USER, {"role": "assistant", "content": [call]}]
    ).continue_final_message
    with pytest.raises(InvalidRequest, match="must be called"):
        request(messages=begun, tools=[TOOL], tool_choice={"type": "any"})


@pytest.mark.parametrize("field", ["tools", "messages", "system", "context_management"])
def test_what_is_nested_too_deeply_is_refused(field: str) -> None:
    deep = b"[" * 600 + b"]" * 600
    block = b'{"type":"tool_use","id":"t","name":"f","input":{"a":%b}}'
    call = b'[{"role":"assistant","content":[' + block + b"]}]"
    tool = b'[{"name":"f","input_schema":{"enum":%b}}]'
    given = {"tools": tool % deep, "messages": call % deep}.get(field, deep)
    plain = b'"messages":[{"role":"user","content":"Hi"}],' if field != "messages" else b""
    with contextlib.suppress(InvalidRequest):
        parse(b'{"max_tokens":9,%b"%b":%b}' % (plain, field.encode(), given))


def to_blocks(conversation: list[dict[str, Any]]) -> dict[str, Any]:
    """A conversation as this dialect's clients send it back."""
    body: dict[str, Any] = {"messages": []}
    for message in conversation:
        role, content = message["role"], message["content"]
        if role == "system":
            body["system"] = content
            continue
        blocks: list[dict[str, Any]] = []
        if role == "tool":
            role = "user"
            blocks.append(
                {
                    "type": "tool_result",
                    "tool_use_id": message["tool_call_id"],
                    "content": content,
                }
            )
        else:
            if "reasoning_content" in message:
                blocks.append({"type": "thinking", "thinking": message["reasoning_content"]})
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            blocks += map(_block, parts or ())
            for call in message.get("tool_calls", ()):
                function = call["function"]
                arguments = json.loads(function["arguments"])
                used = {"id": call["id"], "name": function["name"], "input": arguments}
                blocks.append({"type": "tool_use", **used})
        body["messages"].append({"role": role, "content": blocks})
    return body


def _block(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    data = part["image_url"]["url"].partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


@given(conversation=conversations())
def test_a_conversation_comes_through_whole(conversation: list[dict[str, Any]]) -> None:
    assert request(**to_blocks(conversation)).messages == conversation
