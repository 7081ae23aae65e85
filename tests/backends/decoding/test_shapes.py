"""Chunks in other shapes than OpenAI's are read like its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.backends.decoding.shapes import decode_lenient


def message(delta: Any) -> Any:
    chunk = {"choices": [{"index": 0, "delta": delta}]}
    choices = decode_lenient(json.dumps(chunk).encode()).choices
    assert choices is not None
    return choices[0].delta


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"text": "a"}, "b"], "ab"),
        ({"type": "output_text", "text": "ab"}, "ab"),
        ([{"type": {}, "text": "x"}, {"type": ["text"], "text": "x"}], ""),
        ([], ""),
        ([{"type": "image_url"}, {"type": "text", "text": None}, 7], ""),
    ],
)
def test_a_list_of_parts_is_their_text(content: Any, text: str) -> None:
    assert message({"content": content}).content == text


def test_parts_of_thought_and_refusal_are_told_apart() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    refused = {"type": "refusal", "refusal": "no"}
    read = message({"content": [thought, refused, {"type": "text", "text": "yes"}]})
    assert (read.content, read.reasoning_content, read.refusal) == ("yes", "hm", "no")


@pytest.mark.parametrize("choices", [{}, [], None, [None], "", 0])
def test_choices_that_hold_nothing_are_none(choices: Any) -> None:
    assert not decode_lenient(json.dumps({"choices": choices}).encode()).choices


@pytest.mark.parametrize(
    "odd",
    [
        {"index": None, "delta": {"content": "x"}},
        {"index": 0, "delta": {"content": "x"}, "logprobs": []},
        {"index": 0, "delta": {"content": "x", "reasoning": {}}, "logprobs": "no"},
        {"index": 0, "delta": {"content": "x", "tool_calls": {}}},
        {"index": 0.0, "delta": {"content": "x", "tool_calls": None}},
        {"index": 0, "delta": {"content": "x", "tool_calls": True}},
    ],
)
def test_what_is_odd_beside_the_text_does_not_hide_it(odd: dict[str, Any]) -> None:
    choices = decode_lenient(json.dumps({"choices": [odd]}).encode()).choices
    assert choices is not None
    assert choices[0].delta is not None
    assert choices[0].delta.content == "x"


@pytest.mark.parametrize("body", [b"[]", b"7", b"<html>", b'{"choices":[7]}', b'{"choices":"x"}'])
def test_what_is_no_chunk_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_lenient(body)
