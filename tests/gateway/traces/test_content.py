"""Prompts and answers in the conventions' shape, within their bound."""

from __future__ import annotations

import json
from typing import Any

from reverie.events import Delta, ToolCallDelta
from reverie.gateway.traces.content import MAX_CHARACTERS, input_messages, output_messages
from reverie.request import GenerateRequest


def asked(*messages: dict[str, Any], **more: Any) -> Any:
    text = input_messages(GenerateRequest(model="m", messages=list(messages), **more))
    return json.loads(text) if text else None


def test_a_conversation_with_tools_keeps_its_order() -> None:
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    assert asked(
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": "rainy"},
    ) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm"},
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": '{"city": "Paris"}',
                },
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_1", "response": "rainy"}],
        },
    ]


def test_of_an_image_only_its_place_is_told() -> None:
    urls = "data:image/png;base64,AAAA", "https://example.org/a.png"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    [message] = asked({"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]})
    assert message["parts"] == [
        {"type": "text", "content": "What?"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": ""},
        {"type": "uri", "modality": "image", "uri": "https://example.org/a.png"},
    ]


def test_a_prompt_without_a_template_is_a_user_s_text() -> None:
    assert asked(prompt="Once") == [
        {"role": "user", "parts": [{"type": "text", "content": "Once"}]}
    ]
    assert asked(prompt=(1, 2)) is None


def test_the_end_of_a_long_prompt_is_kept() -> None:
    long = "a" * MAX_CHARACTERS + "end"
    found = asked({"role": "user", "content": "first"}, {"role": "user", "content": long})
    assert len(found) == 1
    text = found[0]["parts"][0]["content"]
    assert text.endswith("aend")
    assert len(text) < MAX_CHARACTERS + 10


def test_the_beginning_of_a_long_answer_is_kept() -> None:
    deltas = [Delta(text="start"), Delta(text="b" * MAX_CHARACTERS), Delta(text="end")]
    [message] = json.loads(output_messages([(deltas, "stop")], with_reasons=True))
    text = message["parts"][0]["content"]
    assert text.startswith("startb")
    assert len(text) < MAX_CHARACTERS + 10


def test_the_pieces_of_tool_calls_are_joined() -> None:
    deltas = [
        Delta(tool_calls=(ToolCallDelta(0, "a", "f", '{"x"'),)),
        Delta(tool_calls=(ToolCallDelta(1, "b", "g"),)),
        Delta(tool_calls=(ToolCallDelta(0, arguments=": 1}"),)),
    ]
    [message] = json.loads(output_messages([(deltas, "tool_call")], with_reasons=True))
    assert message == {
        "role": "assistant",
        "parts": [
            {"type": "tool_call", "id": "a", "name": "f", "arguments": '{"x": 1}'},
            {"type": "tool_call", "id": "b", "name": "g", "arguments": ""},
        ],
        "finish_reason": "tool_call",
    }


def test_an_answer_without_a_piece_is_nothing() -> None:
    assert output_messages([], with_reasons=True) == ""
