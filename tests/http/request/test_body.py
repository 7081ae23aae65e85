from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.body import parse_one as parse
from reverie.request import GenerateRequest
from reverie.settings import DefaultSettings

USER = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def request(**fields: Any) -> GenerateRequest:
    return parse(json.dumps({"messages": [USER], **fields}).encode())


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    return caught.value


def json_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


# What is accepted -------------------------------------------------------------------------


def test_absent_fields_take_the_defaults() -> None:
    every = frozenset(DefaultSettings.model_fields)
    assert request() == GenerateRequest(model="", messages=[USER], left_open=every)


def test_what_the_livepeer_sdk_sends_is_the_same_as_the_defaults() -> None:
    explicit = request(model="", temperature=0.7, max_tokens=256, top_p=1, top_k=-1, stream=False)
    assert explicit.left_open == {"min_p", "repetition_penalty"}
    assert replace(explicit, left_open=request().left_open) == request()


@pytest.mark.parametrize(
    "field",
    [
        "model",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "top_p",
        "top_k",
        "min_p",
        "stream",
        "stream_options",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "n",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
    ],
)
def test_null_is_absent(field: str) -> None:
    assert request(**{field: None}) == request()


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"temperature": "0.5"}, "temperature", 0.5),
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 2}, "temperature", 2.0),
        ({"max_tokens": "10"}, "max_tokens", 10),
        ({"max_tokens": 10.0}, "max_tokens", 10),
        ({"max_tokens": "10.0"}, "max_tokens", 10),
        ({"max_tokens": 2**31 - 1}, "max_tokens", 2**31 - 1),
        ({"max_completion_tokens": 9}, "max_tokens", 9),
        ({"max_completion_tokens": 9, "max_tokens": 9}, "max_tokens", 9),
        ({"top_p": 0.001}, "top_p", 0.001),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 0}, "top_k", 0),
        ({"top_k": "40"}, "top_k", 40),
        ({"min_p": 0.05}, "min_p", 0.05),
        ({"stream": True}, "stream", True),
        ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
        ({"stream": True, "stream_options": {"include_usage": None}}, "include_usage", False),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream", True),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
        ({"stop": []}, "stop", ()),
        ({"seed": -(2**63)}, "seed", -(2**63)),
        ({"presence_penalty": -2}, "presence_penalty", -2.0),
        ({"frequency_penalty": 2}, "frequency_penalty", 2.0),
        ({"logit_bias": {"50256": -100, "0": "1.5"}}, "logit_bias", {"50256": -100.0, "0": 1.5}),
        ({"logit_bias": {}}, "logit_bias", None),
        ({"logprobs": True, "top_logprobs": 20}, "top_logprobs", 20),
        ({"top_logprobs": 0}, "top_logprobs", 0),
        ({"n": "1"}, "messages", [USER]),
        ({"response_format": {"type": "text"}}, "response_format", None),
        ({"response_format": {"type": "json_object"}}, "response_format", {"type": "json_object"}),
        ({"response_format": json_format(SCHEMA)}, "response_format", json_format(SCHEMA)),
        ({"tools": [TOOL]}, "tools", [TOOL]),
        ({"tools": []}, "tools", None),
        ({"tool_choice": "none"}, "tool_choice", "none"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "required"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"model": "m"}, "model", "m"),
        ({"metadata": {"a": 1}, "user": "u", "store": False}, "messages", [USER]),
    ],
)
def test_a_value_within_its_bounds_is_taken(given: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(request(**given), field) == value


def test_a_named_tool_may_be_chosen() -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    assert request(tools=[TOOL], tool_choice=choice).tool_choice == choice


def test_nulls_inside_a_json_schema_are_kept() -> None:
    schema = {"type": ["string", "null"], "default": None, "enum": [None, "a"]}
    sent = json_format(schema, strict=True, description="d")
    assert request(response_format=sent).response_format == sent


def test_text_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = {"role": "user", "content": parts}
    assert request(messages=[message]).messages == [{"role": "user", "content": "one\ntwo"}]


def test_a_developer_message_is_a_system_message_to_the_engine() -> None:
    message = {"role": "developer", "content": "Be brief."}
    assert request(messages=[message]).messages[0]["role"] == "system"


def test_a_conversation_with_tool_calls_reaches_the_engine_whole() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert request(messages=messages).messages == messages


def test_content_may_be_absent_beside_tool_calls() -> None:
    messages = [{"role": "assistant", "tool_calls": [CALL]}]
    assert request(messages=messages).messages[0]["content"] is None


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning_content",
        "reasoning",
    ],
)
def test_a_null_that_sdks_send_back_is_dropped(field: str) -> None:
    message = {"role": "assistant", "content": "Hi", field: None}
    assert request(messages=[message]).messages == [{"role": "assistant", "content": "Hi"}]


THOUGHT = {"role": "assistant", "content": "Hi", "reasoning_content": "A greeting."}


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_content": "A greeting."},
        {"reasoning": "A greeting."},
        {"reasoning_content": "A greeting.", "reasoning": "A greeting."},
        {"reasoning_content": None, "reasoning": "A greeting."},
    ],
)
def test_reasoning_that_sdks_send_back_reaches_the_engine_by_one_name(
    reasoning: dict[str, Any],
) -> None:
    message = {"role": "assistant", "content": "Hi", **reasoning}
    assert request(messages=[USER, message]).messages == [USER, THOUGHT]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_speaker_has_a_name(role: str) -> None:
    message = {"role": role, "content": "Hi", "name": "Ann B."}
    assert request(messages=[message]).messages == [message]


def test_reasoning_counts_as_part_of_the_prompt() -> None:
    long = {**THOUGHT, "reasoning_content": "x" * 3000}
    more = request(messages=[long]).size - request(messages=[THOUGHT]).size
    assert more > 900


# What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages.1.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{**USER, "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages.0.tool_calls"),
        ({"messages": [{**USER, "name": "n" * 65}]}, "messages.0.name"),
        ({"messages": [{**USER, "name": 5}]}, "messages.0.name"),
        ({"messages": [{**USER, "reasoning_content": "hm"}]}, "messages.0.reasoning_content"),
        ({"messages": [{**USER, "reasoning": "hm"}]}, "messages.0.reasoning"),
        (
            {"messages": [{"role": "assistant", "content": "x", "reasoning": ["hm"]}]},
            "messages.0.reasoning",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": "x",
                        "reasoning": "a",
                        "reasoning_content": "b",
                    }
                ]
            },
            "messages.0.reasoning",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": 1}]}]},
            "messages.0.tool_calls.0.id",
        ),
        ({"model": 5}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "NaN"}, "temperature"),
        ({"temperature": "inf"}, "temperature"),
        ({"temperature": "1_0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"temperature": 10**30}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 10.5}, "max_tokens"),
        ({"max_tokens": "10.5"}, "max_tokens"),
        ({"max_tokens": ""}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stop": 5}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"hello": 1}}, "logit_bias.hello"),
        ({"logit_bias": {"01": 1}}, "logit_bias.01"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"n": [1]}, "n"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {**json_format(SCHEMA), "type": "json_object"}},
            "response_format.json_schema",
        ),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools.0.function.name",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice.function.name",
        ),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
def test_a_mistake_is_named_by_its_path(given: dict[str, Any], param: str) -> None:
    error = refusal(**given)
    assert error.code == "invalid_request"
    assert error.param == param
    assert ".".join(map(str, error.details[0]["loc"])) == f"body.{param}"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{**USER, "function_call": {"name": "f"}}]}, "messages.0.function_call"),
        ({"n": 2}, "n"),
        ({"messages": [{**USER, "mood": "good"}]}, "messages.0.mood"),
        ({"messages": [{**USER, "audio": {"id": "a1"}}]}, "messages.0.audio"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                        ],
                    }
                ]
            },
            "messages.0.content.1.type",
        ),
        ({"stream": True, "stream_options": {"color": True}}, "stream_options.color"),
    ],
)
def test_what_is_not_honoured_is_named(given: dict[str, Any], param: str) -> None:
    error = refusal(**given)
    assert isinstance(error, UnsupportedParameter)
    assert error.code == "unsupported_parameter"
    assert error.param == param


def test_an_unknown_field_beside_a_plain_mistake_makes_an_invalid_request() -> None:
    error = refusal(frobnicate=1, temperature=9)
    assert error.code == "invalid_request"
    assert {detail["loc"][-1] for detail in error.details} == {"frobnicate", "temperature"}


def test_all_mistakes_are_listed_up_to_twenty() -> None:
    assert len(refusal(temperature=9, top_p=9, stop=5).details) == 3
    many = refusal(**{f"field{number}": 1 for number in range(40)})
    assert len(many.details) == 20
    assert "39 more" in many.message


def test_details_have_the_shape_that_livepeers_clients_parse() -> None:
    (detail,) = refusal(messages=[{"role": "user", "content": 5}]).details
    assert detail.keys() == {"loc", "msg", "type"}
    assert detail["loc"] == ["body", "messages", 0, "content"]


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [{"role": "my secret", "content": "my secret"}]},
        {"messages": [{"role": "user", "content": [{"type": "my secret"}]}]},
        {"messages": "my secret"},
        {"temperature": "my secret"},
        {"model": "my secret" * 50},
        {"tool_choice": "my secret"},
        {"response_format": json_format({"type": "my secret"})},
    ],
)
def test_an_error_never_repeats_a_value(given: dict[str, Any]) -> None:
    error = refusal(**given)
    assert "my secret" not in error.message + json.dumps(error.details)


def test_names_that_the_client_chose_are_clipped() -> None:
    error = refusal(**{"x" * 10_000: 1})
    assert len(error.message) < 300
    assert len(json.dumps(error.details)) < 500


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{} x",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"{'a': 1}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    assert caught.value.details[0]["type"] == "json_invalid"
    assert caught.value.details[0]["loc"] == ["body"]


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"5", b"true"])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON object"):
        parse(raw)


@given(st.binary())
def test_any_bytes_give_a_request_or_an_error(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(raw)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "temperature",
                "max_tokens",
                "stop",
                "logit_bias",
                "tools",
                "tool_choice",
                "response_format",
                "stream_options",
                "seed",
                "n",
                "x",
            ]
        ),
        _json,
    )
)
def test_any_json_gives_a_request_or_an_error(fields: dict[str, Any]) -> None:
    try:
        parsed = parse(json.dumps({"messages": [USER], **fields}).encode())
    except InvalidRequest as error:
        mistakes = len(error.details)
    else:
        assert isinstance(parsed, GenerateRequest)
        return
    assert 1 <= mistakes <= 20


def test_a_hostile_body_does_not_buy_a_mountain_of_errors() -> None:
    assert len(refusal(messages=[0] * 100_000).details) == 1
    assert len(refusal(messages=[{"role": "user"}] * 10_000).details) == 20
    assert len(refusal(**{f"k{number}": 0 for number in range(100_000)}).details) == 1


# What an answer carried comes back ----------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"index": 0},
        {"parsed": {"a": 1}},
        {"annotations": [{"type": "url_citation"}]},
        {"annotations": []},
        {"refusal": None, "audio": None, "function_call": None, "tool_calls": None},
        {"provider_specific_fields": {"x": 1}},
        {"tool_calls": []},
        {"cache_control": {"type": "ephemeral"}},
        {"anything": None},
    ],
)
def test_an_answer_comes_back_as_it_came(more: dict[str, Any]) -> None:
    answer = {"role": "assistant", "content": "Hi", **more}
    assert request(messages=[USER, answer, USER]).messages[1] == {
        "role": "assistant",
        "content": "Hi",
    }


def test_tool_calls_come_back_as_they_were_accumulated() -> None:
    function = {**CALL["function"], "parsed_arguments": {}}
    call = {**CALL, "index": 0, "function": function, "provider_specific_fields": {}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert request(messages=[USER, answer]).messages[1]["tool_calls"] == [CALL]
    del call["type"]
    assert request(messages=[USER, answer]).messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "", "refusal": "No."}, "No."),
        ({"content": "Well. ", "refusal": "No."}, "Well. \nNo."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        (
            {"content": [{"type": "text", "text": "Hm."}, {"type": "refusal", "refusal": "No."}]},
            "Hm.\nNo.",
        ),
    ],
)
def test_a_refusal_comes_back_as_text(answer: dict[str, Any], text: str) -> None:
    message = request(messages=[USER, {"role": "assistant", **answer}]).messages[1]
    assert message == {"role": "assistant", "content": text}


@pytest.mark.parametrize("blank", ["", " ", "\n\t", None])
def test_blank_arguments_are_an_empty_object(blank: str | None) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": blank}}
    answer = {"role": "assistant", "tool_calls": [call]}
    assert request(messages=[USER, answer]).messages[1]["tool_calls"] == [CALL]


def test_arguments_may_be_the_object_itself() -> None:
    call = {**CALL, "function": {"name": "f", "arguments": {"ä": 1}}}
    answer = {"role": "assistant", "tool_calls": [call]}
    (sent,) = request(messages=[USER, answer]).messages[1]["tool_calls"]
    assert sent["function"]["arguments"] == '{"ä": 1}'


@pytest.mark.parametrize(
    "where",
    [
        {"modalities": ["text"]},
        {"modalities": None, "audio": None, "prediction": None, "frobnicate": None},
        {"top_logprobs": None, "logprobs": None},
        {"messages": [{**USER, "frobnicate": None}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", "x": None}]}]},
        {"stream": True, "stream_options": {"include_usage": None, "x": None}},
        {"stream_options": {"include_usage": None}},
        {"response_format": {"type": "text", "json_schema": None, "x": None}},
        {"cache_control": {"type": "ephemeral"}, "prompt_cache_retention": "24h"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hello", "cache_control": {}}],
                }
            ]
        },
    ],
)
def test_null_asks_for_nothing_and_a_hint_for_no_text(where: dict[str, Any]) -> None:
    given = request(**where)
    assert (given.messages, given.response_format, given.logprobs) == ([USER], None, False)


def test_a_null_bias_is_none() -> None:
    assert request(logit_bias={"5": None, "6": 1}).logit_bias == {"6": 1.0}


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}])
def test_an_answer_without_text_may_hold_calls_or_reasoning(content: dict[str, Any]) -> None:
    called = {"role": "assistant", **content, "tool_calls": [CALL]}
    assert request(messages=[called]).messages[0]["content"] is None
    thought = {"role": "assistant", **content, "reasoning_content": "Hm."}
    assert request(messages=[thought]).messages[0]["content"] == ""


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": []},
        {"role": "user", "content": []},
    ],
)
def test_content_that_no_message_of_its_role_has_is_refused(message: dict[str, Any]) -> None:
    assert refusal(messages=[message]).param == "messages.0.content"


def test_hints_and_nulls_may_be_in_tools_too() -> None:
    tool = {**TOOL, "cache_control": {"type": "ephemeral"}, "x": None}
    given = request(
        tools=[tool], tool_choice={"type": "function", "function": {"name": "f", "x": None}}
    )
    assert given.tools == [TOOL]


def test_a_null_within_a_json_schema_keeps_its_meaning() -> None:
    schema = {"type": "object", "properties": {"a": {"const": None}}}
    given = request(response_format=json_format(schema))
    assert given.response_format is not None
    assert given.response_format["json_schema"]["schema"] == schema


def test_a_null_that_is_needed_is_missing() -> None:
    assert refusal(messages=None).param == "messages"
    assert refusal(messages=[{"role": "user", "content": None}]).param == "messages.0.content"
    assert (
        refusal(messages=[USER, {"role": "assistant", "content": None}]).code == "invalid_request"
    )


# Going on with a message --------------------------------------------------------------------

BEGUN = {"role": "assistant", "content": "Hel"}


def test_the_last_message_is_gone_on_with_only_where_that_is_asked_for() -> None:
    assert not request(messages=[USER, BEGUN]).continue_final_message
    assert request(messages=[USER, BEGUN], continue_final_message=True).continue_final_message


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": ""}]}]},
        {"messages": [USER, {**BEGUN, "tool_calls": [CALL]}]},
        {"messages": [USER, BEGUN], "tools": [TOOL], "tool_choice": "required"},
        {"messages": [USER, BEGUN], "response_format": json_format(SCHEMA)},
    ],
)
def test_what_can_not_be_gone_on_with_is_refused(given: dict[str, Any]) -> None:
    assert refusal(**given, continue_final_message=True).param == "continue_final_message"


# Controls -----------------------------------------------------------------------------------


def test_controls_reach_the_request() -> None:
    given = {
        "repetition_penalty": 1.1,
        "min_tokens": 3,
        "ignore_eos": True,
        "reasoning_effort": "high",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    made = request(**given, stream=True, stream_options={"continuous_usage_stats": True})
    assert {name: getattr(made, name) for name in given} == given
    assert made.continuous_usage


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 11}, "repetition_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 300}, "min_tokens"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 5000}}, "chat_template_kwargs"),
        (
            {"chat_template_kwargs": {str(number): 1 for number in range(17)}},
            "chat_template_kwargs",
        ),
    ],
)
def test_controls_have_bounds(given: dict[str, Any], param: str) -> None:
    assert refusal(**given).param == param


# Images -------------------------------------------------------------------------------------

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def seen(image_url: Any, role: str = "user") -> dict[str, Any]:
    text = {"type": "text", "text": "What is this?"}
    return {"role": role, "content": [text, {"type": "image_url", "image_url": image_url}]}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"url": PIXEL}, {"url": PIXEL}),
        ({"url": PIXEL, "detail": "low"}, {"url": PIXEL, "detail": "low"}),
        ({"url": PIXEL, "detail": None}, {"url": PIXEL}),
        (PIXEL, {"url": PIXEL}),
        ({"url": "https://example.org/a.png"}, {"url": "https://example.org/a.png"}),
        ({"url": "data:image/JPEG;base64,AAAA"}, {"url": "data:image/jpeg;base64,AAAA"}),
    ],
)
def test_an_image_is_kept_as_a_part_beside_the_text(given: Any, kept: dict[str, Any]) -> None:
    asked = request(messages=[seen(given)])
    assert asked.messages == [seen(kept)]
    assert asked.images == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "data:,",
        "data:image/png;base64,",
        "data:image/png,abc",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "data:image/png;base64,***",
        "data:image/png;base64,AAA",
        "data:image/png;base64,AAAA AAAA",
        "data:image/png;base64,\u00e4\u00e4\u00e4\u00e4",
        "https://example.org/" + "a" * 9000,
    ],
)
def test_what_is_no_image_is_refused_and_not_repeated(url: str) -> None:
    error = refusal(messages=[seen({"url": url})])
    assert error.code == "invalid_request"
    assert error.param == "messages.0.content.1.image_url.url"
    assert len(url) < 25 or url not in error.message


def test_only_the_user_shows_images() -> None:
    error = refusal(messages=[USER, seen({"url": PIXEL}, "assistant"), USER])
    assert (error.param, error.code) == ("messages.1.content", "invalid_request")


def test_images_are_bounded_over_all_messages() -> None:
    assert request(messages=[seen(PIXEL)] * 64).images == 64
    error = refusal(messages=[seen(PIXEL)] * 65)
    assert (error.param, error.code) == ("messages", "invalid_request")
