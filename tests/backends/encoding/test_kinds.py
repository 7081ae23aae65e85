"""Each kind of engine is sent what it understands, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from reverie.backends.encoding.kinds import check, encode
from reverie.errors import UnsupportedParameter
from reverie.request import GenerateRequest
from reverie.settings import BackendKind, BackendSettings

Ask = Callable[..., GenerateRequest]

KINDS: tuple[BackendKind, ...] = tuple(kind for kind in get_args(BackendKind) if kind != "livepeer")
"""Those that speak OpenAI's dialect."""

TOOLS = [{"type": "function", "function": {"name": "f"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
EVERYTHING: dict[str, Any] = {
    "top_k": 3,
    "min_p": 0.1,
    "stop": ("a", "b"),
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"5": -1.0},
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": SCHEMA,
    "tools": TOOLS,
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


def body(request: GenerateRequest, kind: BackendKind) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(encode(request, "up", kind))
    return decoded


def settings(**fields: Any) -> BackendSettings:
    return BackendSettings(url="http://h/v1", **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_request_asks_for_a_counted_stream_and_no_more(ask: Ask, kind: BackendKind) -> None:
    counted = {"include_usage": True}
    extra: dict[str, Any] = {}
    if kind == "llamacpp":
        extra = {"top_k": 0, "min_p": 0.0, "return_progress": True, "timings_per_token": True}
    elif kind in ("vllm", "sglang"):
        counted["continuous_usage_stats"] = True
    limit = "max_completion_tokens" if kind == "openai" else "max_tokens"
    check(ask(), kind)
    assert body(ask(), kind) == {
        "model": "up",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": counted,
        "temperature": 0.7,
        limit: 256,
        "top_p": 1.0,
        **extra,
    }


def test_a_trusted_engine_is_sent_every_field_that_was_set(ask: Ask) -> None:
    sent = body(ask(**EVERYTHING), "generic")
    expected = json.loads(json.dumps(EVERYTHING))
    assert {key: sent[key] for key in EVERYTHING} == expected


@pytest.mark.parametrize("kind", ["generic", "vllm", "sglang"])
def test_these_kinds_refuse_nothing(ask: Ask, kind: BackendKind) -> None:
    check(ask(**EVERYTHING), kind)


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("openai", {"top_k": 3}, "top_k"),
        ("openai", {"min_p": 0.1}, "min_p"),
        ("ollama", {"top_k": 3}, "top_k"),
        ("ollama", {"min_p": 0.1}, "min_p"),
        ("ollama", {"logit_bias": {"5": 1.0}}, "logit_bias"),
        ("ollama", {"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ("llamacpp", {"tools": TOOLS, "response_format": SCHEMA}, "response_format"),
        (
            "llamacpp",
            {"tools": TOOLS, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ("llamacpp", {"tools": TOOLS, "logprobs": True}, "logprobs"),
    ],
)
def test_what_a_kind_cannot_honour_is_refused_by_name(
    ask: Ask, kind: BackendKind, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        check(ask(**fields), kind)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llamacpp", {"tools": TOOLS, "response_format": {"type": "text"}}),
        ("llamacpp", {"tools": TOOLS, "tool_choice": "none", "response_format": SCHEMA}),
        ("ollama", {"tools": TOOLS, "tool_choice": "auto"}),
        ("ollama", {"tools": TOOLS, "tool_choice": "none"}),
    ],
)
def test_what_a_kind_can_honour_is_not_refused(
    ask: Ask, kind: BackendKind, fields: dict[str, Any]
) -> None:
    check(ask(**fields), kind)


def test_ollama_calls_no_tool_when_it_is_given_none(ask: Ask) -> None:
    sent = body(ask(tools=TOOLS, tool_choice="none"), "ollama")
    assert "tools" not in sent
    assert "tool_choice" not in sent


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 2, 2**32 - 1, 2**63 - 1, -1, -(2**63)])
def test_llamacpps_seed_is_32_bits_and_never_the_random_one(ask: Ask, seed: int) -> None:
    sent = body(ask(seed=seed), "llamacpp")["seed"]
    assert 0 <= sent < 2**32 - 1
    assert sent == body(ask(seed=seed), "llamacpp")["seed"]
    assert body(ask(seed=seed), "vllm")["seed"] == seed


def test_llamacpp_is_made_to_call_a_required_tool(ask: Ask) -> None:
    sent = body(ask(tools=TOOLS, tool_choice="required"), "llamacpp")
    assert sent["tools"] == TOOLS
    assert sent["tool_choice"] == "auto"
    assert sent["response_format"]["type"] == "json_schema"
    free = body(ask(tools=TOOLS, tool_choice="auto"), "llamacpp")
    assert "response_format" not in free


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("generic", {"reasoning_content"}),
        ("llamacpp", {"reasoning_content"}),
        ("sglang", {"reasoning_content"}),
        ("vllm", {"reasoning", "reasoning_content"}),
        ("ollama", {"reasoning"}),
        ("openai", set()),
    ],
)
def test_reasoning_goes_by_the_names_that_the_kind_knows(
    ask: Ask, kind: BackendKind, names: set[str]
) -> None:
    answer = {"role": "assistant", "content": "Hi", "name": "bot"}
    user = {"role": "user", "content": "And now?"}
    request = ask(messages=[{**answer, "reasoning_content": "hm"}, user])
    check(request, kind)
    assert body(request, kind)["messages"] == [{**answer, **dict.fromkeys(names, "hm")}, user]


def test_llguidance_is_given_the_schema_in_a_grammar_without_free_whitespace(ask: Ask) -> None:
    sent = json.loads(encode(ask(response_format=SCHEMA), "up", "llamacpp", "llguidance"))
    assert sent["response_format"] == {"type": "text"}
    schema = json.loads(sent["grammar"].partition("%json ")[2])
    assert schema.pop("x-guidance")["whitespace_flexible"] is False
    assert schema == {"type": "object"}


def test_a_grammar_stands_beside_tools_that_are_shown_but_not_called(ask: Ask) -> None:
    forced = ask(tools=TOOLS, tool_choice="required")
    sent = json.loads(encode(forced, "up", "llamacpp", "llguidance"))
    assert sent["tools"] == TOOLS
    assert sent["tool_choice"] == "none"
    assert "grammar" in sent
    free = json.loads(encode(ask(tools=TOOLS), "up", "llamacpp", "llguidance"))
    assert "grammar" not in free
    assert "tool_choice" not in free


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format.json_schema.schema.not",
        ),
        (
            {
                "tools": [*TOOLS, {"function": {"name": "g", "parameters": {"not": {}}}}],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tools.1.function.parameters.not",
        ),
    ],
)
def test_llamacpp_refuses_a_part_of_a_schema_by_its_path(
    ask: Ask, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        check(ask(**fields), "llamacpp")
    assert caught.value.param == param
    check(ask(**fields), "vllm")


def test_a_function_that_need_not_be_called_may_have_any_schema(ask: Ask) -> None:
    tools = [{"function": {"name": "g", "parameters": {"not": {}}}}]
    check(ask(tools=tools, tool_choice="auto"), "llamacpp")


@pytest.mark.parametrize("kind", ["generic", "llamacpp", "vllm", "sglang"])
def test_an_answer_that_was_cut_is_its_conversations_end(ask: Ask, kind: BackendKind) -> None:
    sent = body(ask(answer_so_far="Hel"), kind)
    assert sent["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hel"},
    ]
    assert sent["continue_final_message"] is True
    assert sent["add_generation_prompt"] is False


CONTINUING: tuple[BackendKind, ...] = ("llamacpp", "vllm", "sglang")


@pytest.mark.parametrize("kind", CONTINUING)
def test_the_clients_own_beginning_and_the_answer_are_one_message_where_it_asked_for_that(
    ask: Ask, kind: BackendKind
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh, "}]
    first = body(ask(messages=messages, continue_final_message=True), kind)
    assert first["messages"] == messages
    assert (first["continue_final_message"], first["add_generation_prompt"]) == (True, False)
    asked = ask(messages=messages, continue_final_message=True, answer_so_far="hel")
    assert body(asked, kind)["messages"][1:] == [{"role": "assistant", "content": "Oh, hel"}]
    another = ask(messages=messages, answer_so_far="hel")
    assert body(another, kind)["messages"] == [
        *messages,
        {"role": "assistant", "content": "hel"},
    ]
    assert "continue_final_message" not in body(ask(messages=messages), kind)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(CONTINUING)))
def test_going_on_with_a_message_is_refused_where_the_kind_begins_anew(
    ask: Ask, kind: BackendKind
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        check(ask(continue_final_message=True), kind)
    assert caught.value.param == "continue_final_message"
    check(ask(continue_final_message=True), kind, settings=settings(continues=True))


NO_OBJECT = ("[1]", "3", '"x"', '{"a": "b', '{"a":1}{"b":2}', "NaN", '{"a":NaN}', "[" * 5000, "ä")


@pytest.mark.parametrize("arguments", ['{"a": 1}', "{}", "null", *NO_OBJECT])
@pytest.mark.parametrize("kind", KINDS)
def test_arguments_of_earlier_calls_are_an_object_to_every_engine_that_parses_them(
    ask: Ask, kind: BackendKind, arguments: str
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    (sent,) = body(ask(messages=messages), kind)["messages"][0]["tool_calls"]
    written = sent["function"]["arguments"]
    if kind == "openai":
        assert written == arguments
        return
    value = json.loads(written, parse_constant=pytest.fail)
    assert isinstance(value, dict)
    if arguments in NO_OBJECT:
        assert value == {"INVALID_JSON": arguments}
    else:
        assert value == (json.loads(arguments) or {})


CONTROLS: dict[str, Any] = {
    "repetition_penalty": 1.2,
    "min_tokens": 5,
    "ignore_eos": True,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False},
}
HONOURED: dict[str, tuple[BackendKind, ...]] = {
    "repetition_penalty": ("generic", "llamacpp", "vllm", "sglang"),
    "min_tokens": ("generic", "vllm", "sglang"),
    "ignore_eos": ("generic", "llamacpp", "vllm", "sglang"),
    "reasoning_effort": ("generic", "llamacpp", "vllm", "sglang", "ollama", "openai"),
    "chat_template_kwargs": ("generic", "llamacpp", "vllm", "sglang"),
}


@pytest.mark.parametrize("field", CONTROLS)
@pytest.mark.parametrize("kind", [*KINDS, "livepeer"])
def test_a_control_is_sent_where_it_is_honoured_and_refused_by_name_elsewhere(
    ask: Ask, kind: BackendKind, field: str
) -> None:
    request = ask(**{field: CONTROLS[field]})
    if kind not in HONOURED[field]:
        with pytest.raises(UnsupportedParameter) as caught:
            check(request, kind)
        assert caught.value.param == field
        return
    check(request, kind)
    sent = body(request, kind)
    if kind != "llamacpp":
        assert sent[field] == CONTROLS[field]
    elif field == "repetition_penalty":
        assert sent["repeat_penalty"] == 1.2
    elif field == "reasoning_effort":
        assert sent["chat_template_kwargs"] == {"reasoning_effort": "low"}
    else:
        assert sent[field] == CONTROLS[field]
    assert not body(ask(), kind).keys() & {*CONTROLS, "repeat_penalty"}


def test_no_effort_at_all_switches_thinking_off_where_the_template_can(ask: Ask) -> None:
    sent = body(ask(reasoning_effort="none", chat_template_kwargs={"x": 1}), "llamacpp")
    told = {"reasoning_effort": "none", "enable_thinking": False, "x": 1}
    assert sent["chat_template_kwargs"] == told


@pytest.mark.parametrize("kind", KINDS)
def test_the_usage_so_far_is_told_where_the_engine_tells_it(ask: Ask, kind: BackendKind) -> None:
    request = ask(stream=True, continuous_usage=True)
    if kind in CONTINUING:
        check(request, kind)
        return
    with pytest.raises(UnsupportedParameter) as caught:
        check(request, kind)
    assert caught.value.param == "stream_options.continuous_usage_stats"


def test_log_probabilities_alone_are_asked_for_with_one_alternative(ask: Ask) -> None:
    assert body(ask(logprobs=True), "llamacpp")["top_logprobs"] == 1
    assert body(ask(logprobs=True, top_logprobs=3), "llamacpp")["top_logprobs"] == 3
    assert body(ask(logprobs=True), "vllm")["top_logprobs"] == 0


def test_tools_are_read_alike_whether_they_may_or_must_be_called(ask: Ask) -> None:
    parameters = {"type": "object", "properties": {"a": True, "b": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    for choice in ("auto", "required"):
        request = ask(tools=tools, tool_choice=choice)
        check(request, "llamacpp")
        (sent,) = body(request, "llamacpp")["tools"]
        assert sent["function"]["parameters"]["properties"]["a"] == {}
    assert body(ask(tools=tools), "vllm")["tools"] == tools


# Images -------------------------------------------------------------------------------------

PIXEL = "data:image/png;base64,iVBORw0KGgo="
PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": PIXEL}},
]


def seen(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_goes_to_those_alone_that_are_declared_to_see(ask: Ask, kind: BackendKind) -> None:
    request = ask(messages=[{"role": "user", "content": PARTS}])
    for blind in (None, settings()):
        with pytest.raises(UnsupportedParameter, match="does not see images") as caught:
            check(request, kind, settings=blind)
        assert caught.value.param == "messages.0.content"
    check(request, kind, settings=settings(vision=True))
    assert body(request, kind)["messages"] == [{"role": "user", "content": PARTS}]


def test_an_engine_is_told_to_fetch_an_image_only_where_its_operator_allows_it(ask: Ask) -> None:
    for url in ("http://169.254.169.254/latest", "https://example.org/a.png", "HTTP://x/a"):
        with pytest.raises(UnsupportedParameter, match="not fetched here"):
            check(ask(messages=seen(url)), "vllm", settings=settings(vision=True))
        allowed = settings(vision=True, image_urls=True)
        check(ask(messages=seen(url)), "vllm", settings=allowed)


def test_an_answer_about_an_image_is_continued_as_any_other(ask: Ask) -> None:
    request = ask(messages=[{"role": "user", "content": PARTS}], answer_so_far="A ca")
    assert body(request, "vllm")["messages"] == [
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": "A ca"},
    ]
