"""A constrained answer becomes a tool call, wherever its text is cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.encoding.forced_tools import ForcedCall, is_forced, schema
from reverie.events import Delta, Event, Finish, ToolCallDelta, Usage
from reverie.request import GenerateRequest

Ask = Callable[..., GenerateRequest]

USAGE = Usage(1, 1)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["city"],
            "$defs": {"unit": {"enum": ["c", "f"]}},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
NAMED_NOW = {"type": "function", "function": {"name": "now"}}


def rewrite(*pieces: str, reason: str = "stop") -> tuple[list[ToolCallDelta], list[Event]]:
    """The tool call's pieces, and the other events."""
    call = ForcedCall()
    deltas = [call.rewrite(Delta(piece)) for piece in pieces]
    events = [event for event in deltas if event is not None]
    events += call.end([Finish(reason), USAGE])
    calls = [c for event in events if isinstance(event, Delta) for c in event.tool_calls]
    return calls, [e for e in events if not isinstance(e, Delta) or e.text]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.text(min_size=1, max_size=12),
    arguments=st.dictionaries(st.text(), JSON, max_size=3),
    indent=st.sampled_from([None, 0, 2]),
    around=st.sampled_from(["", " ", "\n", "\n\t "]),
    ascii_only=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_any_call_cut_anywhere(
    name: str,
    arguments: dict[str, Any],
    indent: int | None,
    around: str,
    ascii_only: bool,
    cuts: list[int],
) -> None:
    wrapped = {"name": name, "arguments": arguments}
    text = around + json.dumps(wrapped, indent=indent, ensure_ascii=ascii_only) + around
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    calls, rest = rewrite(*(text[a:b] for a, b in pairwise(edges)))
    assert calls[0].name == name
    assert re.fullmatch("call_[0-9a-f]{24}", calls[0].id or "")
    assert all(call.id is None and call.name is None for call in calls[1:])
    assert {call.index for call in calls} == {0}
    assert json.loads("".join(call.arguments for call in calls)) == arguments
    assert rest == [Finish("tool_calls"), USAGE]


def test_arguments_come_as_they_arrive() -> None:
    call = ForcedCall()
    call.rewrite(Delta('{"name": "f", "arguments": {"a'))
    assert call.rewrite(Delta('": "b')) == Delta(tool_calls=(ToolCallDelta(0, arguments='": "b'),))


def test_a_call_cut_by_max_tokens_says_length() -> None:
    calls, rest = rewrite('{"name": "f", "arguments": {"a": "b', reason="length")
    assert "".join(call.arguments for call in calls) == '{"a": "b'
    assert rest == [Finish("length"), USAGE]


def test_an_answer_cut_before_its_name_has_no_call() -> None:
    calls, rest = rewrite('{"na', reason="length")
    assert not calls
    assert rest == [Finish("length"), USAGE]


def test_text_that_is_no_call_is_sent_as_text() -> None:
    calls, rest = rewrite("Paris ", "is nice.")
    assert not calls
    assert rest == [Delta("Paris is nice."), Finish("stop"), USAGE]


def test_reasoning_and_tool_calls_of_the_engine_pass() -> None:
    call = ForcedCall()
    native = (ToolCallDelta(0, "a", "f", "{}"),)
    assert call.rewrite(Delta("", "hm")) == Delta("", "hm")
    assert call.rewrite(Delta("", "", native)) == Delta("", "", native)


@pytest.mark.parametrize(
    ("choice", "forced"),
    [(None, False), ("auto", False), ("none", False), ("required", True), (NAMED_NOW, True)],
)
def test_which_choices_force_a_call(ask: Ask, choice: Any, forced: bool) -> None:
    assert is_forced(ask(tools=[NOW], tool_choice=choice)) is forced


def accepts(request: GenerateRequest, answer: Any) -> bool:
    answer_schema = schema(request)
    return bool(jsonschema.Draft202012Validator(answer_schema).is_valid(answer))


def test_the_constraint_allows_each_tool_with_its_own_arguments(ask: Ask) -> None:
    request = ask(tools=[WEATHER, NOW], tool_choice="required")
    assert accepts(request, {"name": "get_weather", "arguments": {"city": "Rome", "unit": "c"}})
    assert accepts(request, {"name": "now", "arguments": {}})
    assert not accepts(request, {"name": "get_weather", "arguments": {"city": "R", "unit": "k"}})
    assert not accepts(request, {"name": "get_weather", "arguments": {}})
    assert not accepts(request, {"name": "other", "arguments": {}})
    assert not accepts(request, {"name": "now"})


def test_a_named_tool_is_the_only_one_allowed(ask: Ask) -> None:
    request = ask(tools=[WEATHER, NOW], tool_choice=NAMED_NOW)
    assert accepts(request, {"name": "now", "arguments": {}})
    assert not accepts(request, {"name": "get_weather", "arguments": {"city": "Rome"}})
