"""Requests in Ollama's dialect: what is known is checked, and what isn't is ignored and told."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.ollama import Parsed, parse_chat, parse_prompt
from reverie.request import GenerateRequest

USER = {"role": "user", "content": "Hi"}
PNG = "iVBORw0KGgo="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def chatted(**fields: Any) -> Parsed:
    return parse_chat(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def prompted(**fields: Any) -> Parsed:
    return parse_prompt(json.dumps({"model": "m", "prompt": "Hi", **fields}).encode())


def messages(*given: Any) -> list[dict[str, Any]]:
    return chatted(messages=list(given)).request.messages


def refusal(parse: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value


def test_a_plain_request_is_streamed_and_has_ollama_s_defaults() -> None:
    request, ignored, move = chatted()
    assert (request.stream, request.temperature, request.max_tokens) == (True, 0.8, 4096)
    assert (request.messages, request.tools, request.response_format) == ([USER], None, None)
    assert (ignored, move) == ((), None)
    assert chatted(stream=False).request.stream is False


def test_null_counts_as_absent() -> None:
    empty = dict.fromkeys(
        ["stream", "format", "options", "think", "keep_alive", "tools", "logprobs", "template"]
    )
    message = {**USER, "images": None, "tool_calls": None, "thinking": None, "tool_name": None}
    request, ignored, _ = chatted(messages=[message], **empty)
    assert (request, ignored) == (chatted().request, ())


def test_a_system_prompt_and_a_prompt_become_messages() -> None:
    asked = prompted(system="Be brief.", images=[PNG]).request
    assert asked.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "Hi"}]},
    ]
    assert prompted().request.messages == [USER]
    assert prompted(prompt="", images=[PNG]).request.messages == [
        {"role": "user", "content": [IMAGE]}
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("template", "{{ .Prompt }}"), ("context", [1, 2])],
)
def test_what_would_change_the_prompt_is_refused_by_its_name(field: str, value: Any) -> None:
    error = refusal(prompted, **{field: value})
    assert isinstance(error, UnsupportedParameter)
    assert error.param == field
    assert prompted(**{field: type(value)()}).request == prompted().request


def test_a_raw_prompt_is_taken_as_it_is() -> None:
    asked = prompted(prompt="Once", raw=True).request
    assert (asked.prompt, asked.messages, asked.suffix) == ("Once", [], None)
    asked = prompted(prompt="def f(", suffix="return 1").request
    assert (asked.prompt, asked.suffix) == ("def f(", "return 1")
    for field in ("system", "images", "format"):
        value = [PNG] if field == "images" else "json"
        assert refusal(prompted, raw=True, **{field: value}).param == field


@pytest.mark.parametrize(
    ("keep_alive", "move"),
    [
        (None, "load"),
        (300, "load"),
        (-1, "load"),
        ("5m", "load"),
        ("1h30m0.5s", "load"),
        (0, "unload"),
        (0.0, "unload"),
        ("0", "unload"),
        ("0s", "unload"),
        ("0h0m", "unload"),
    ],
)
def test_without_a_message_or_a_prompt_the_model_is_loaded_or_unloaded(
    keep_alive: Any, move: str
) -> None:
    for parsed in (
        chatted(messages=[], keep_alive=keep_alive),
        chatted(messages=None, keep_alive=keep_alive),
        prompted(prompt="", system="Be brief.", keep_alive=keep_alive),
    ):
        assert (parsed.move, parsed.request.messages) == (move, [])
    beside_a_message = chatted(keep_alive=keep_alive)
    assert beside_a_message.move is None
    assert beside_a_message.ignored == (() if keep_alive is None else ("keep_alive",))


def test_calls_without_ids_get_some_and_their_results_name_them() -> None:
    def called(*names: str, **more: Any) -> dict[str, Any]:
        calls = [{"function": {"name": name, "arguments": {"city": "Zürich"}}} for name in names]
        return {"role": "assistant", "tool_calls": calls, **more}

    def expected(id: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": '{"city": "Zürich"}'}
        return {"id": id, "type": "function", "function": function}

    said = messages(
        USER,
        called("f", "g", content="", thinking="Hm."),
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of f"},
        called("f", content="And?"),
        {"role": "tool", "content": "again", "tool_name": "f"},
    )
    assert said == [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [expected("call_0", "f"), expected("call_1", "g")],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "of g", "name": "g"},
        {"role": "tool", "tool_call_id": "call_0", "content": "of f"},
        {"role": "assistant", "content": "And?", "tool_calls": [expected("call_2", "f")]},
        {"role": "tool", "tool_call_id": "call_2", "content": "again", "name": "f"},
    ]


def test_ids_that_are_there_are_kept() -> None:
    function = {"name": "f", "arguments": {}}
    _, calling, result, lost = messages(
        USER,
        {"role": "assistant", "tool_calls": [{"id": "a", "function": function}]},
        {"role": "tool", "content": "1", "tool_call_id": "a"},
        {"role": "tool", "content": "2"},
    )
    assert calling["tool_calls"][0]["id"] == result["tool_call_id"] == "a"
    assert lost["tool_call_id"] != "a"


def test_a_long_conversation_with_tools_is_read_in_a_moment() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}] * 128}
    said = messages(*[call] * 125, *[{"role": "tool", "content": ""}] * 16_000)
    assert said[-1]["tool_call_id"] == "call_15999"
    error = refusal(chatted, messages=[USER] * 16_385)
    assert error.param == "messages"


def test_images_are_parts_also_those_of_a_tool() -> None:
    assert messages({**USER, "images": [PNG]}) == [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "Hi"}]}
    ]
    result = {"role": "tool", "content": "seen", "tool_call_id": "a", "images": [PNG]}
    assert messages(result) == [
        {"role": "tool", "tool_call_id": "a", "content": "seen"},
        {"role": "user", "content": [IMAGE]},
    ]
    jpeg = messages({**USER, "images": ["/9j/4AAQ"]})[0]["content"][0]
    assert jpeg["image_url"]["url"] == "data:image/jpeg;base64,/9j/4AAQ"
    url = f"data:image/png;base64,{PNG}"
    assert messages({**USER, "images": [url]})[0]["content"][0] == IMAGE


@pytest.mark.parametrize(
    ("think", "effort"),
    [(False, "none"), (True, None), ("low", "low"), ("medium", "medium"), ("high", "high")],
)
def test_how_much_to_think(think: Any, effort: str | None) -> None:
    assert chatted(think=think).request.reasoning_effort == effort


def test_a_format_is_any_json_or_one_of_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chatted(format="json").request.response_format == {"type": "json_object"}
    assert chatted(format="").request.response_format is None
    assert prompted(format=schema).request.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }


def test_tools_are_openai_s() -> None:
    function = {"name": "f", "description": "It.", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    assert chatted(tools=[tool]).request.tools == [tool]
    assert chatted(tools=[{"function": function}]).request.tools == [tool]
    assert chatted(tools=[]).request.tools is None


def test_an_answer_that_was_begun_goes_on_unless_it_has_a_format() -> None:
    begun = [USER, {"role": "assistant", "content": "The"}]
    assert chatted(messages=begun).request.continue_final_message
    assert not chatted(messages=begun, format="json").request.continue_final_message
    assert not chatted().request.continue_final_message


def test_what_is_not_known_is_ignored_and_told() -> None:
    tool = {"function": {"name": "f", "strict": True}}
    asked = {
        "options": {"num_ctx": 4096, "numa": True, "temperature": 0},
        "truncate": False,
        "messages": [{**USER, "mood": "good"}],
        "tools": [tool],
        "keep_alive": "5m",
    }
    assert chatted(**asked).ignored == (
        "keep_alive",
        "messages.mood",
        "options.num_ctx",
        "options.numa",
        "tools.function.strict",
        "truncate",
    )
    many = {f"field_{index}": 1 for index in range(100)}
    assert len(chatted(**many).ignored) == 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages.0.content"),
        ({"messages": [{**USER, "images": ["AAAA"]}]}, "messages.0.images.0"),
        ({"messages": [{**USER, "images": ["iVBORw0KGgo!"]}]}, "messages.0.images.0"),
        (
            {"messages": [{"role": "system", "content": "Hi", "images": [PNG]}]},
            "messages.0.images",
        ),
        (
            {"messages": [{**USER, "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages.0.tool_calls",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": 1}}],
                    }
                ]
            },
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"model": "m" * 201}, "model"),
        ({"model": 1}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"format": "xml"}, "format"),
        ({"format": {"type": "nonsense"}}, "format"),
        ({"think": "deeply"}, "think"),
        ({"keep_alive": "for ever"}, "keep_alive"),
        ({"keep_alive": True}, "keep_alive"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"options": [1]}, "options"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"function": {"name": "f"}}] * 2}, "tools.1.function.name"),
        (
            {"tools": [{"function": {"name": "f", "parameters": {"type": 1}}}]},
            "tools.0.function.parameters",
        ),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(fields: dict[str, Any], param: str) -> None:
    error = refusal(chatted, **fields)
    assert error.param == param
    assert "nonsense" not in error.message
    assert "deeply" not in error.message


def test_all_images_together_are_bounded() -> None:
    message = {**USER, "images": [PNG] * 33}
    assert refusal(chatted, messages=[message, message]).param == "messages"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"Hi"', b"\xff", b"{" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    for parse in (parse_chat, parse_prompt):
        with pytest.raises(InvalidRequest):
            parse(body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_fields = ["model", "messages", "prompt", "system", "images", "stream", "format", "options"]
_fields += ["think", "keep_alive", "logprobs", "tools", "raw", "context", "whatever"]
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
    optional=dict.fromkeys(["content", "images", "tool_calls", "tool_name", "thinking"], _json),
)


@given(
    st.dictionaries(st.sampled_from(_fields), _json)
    | st.fixed_dictionaries({"messages": st.lists(_message, max_size=4)})
)
def test_any_json_is_a_request_or_an_error_of_the_client_s(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    for parse in (parse_chat, parse_prompt):
        with contextlib.suppress(InvalidRequest):
            parsed = parse(raw)
            assert isinstance(parsed.request, GenerateRequest)
            asks = bool(parsed.request.messages or parsed.request.prompt)
            assert (parsed.move is None) is asks
