"""Anthropic's own Python SDK, unchanged, against the real model."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

MODEL = "smollm2-135m"
SYSTEM = "You are a helpful assistant."
CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer in English."}]
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
COLD = {"temperature": 0}


@pytest.fixture
def client(served):
    with Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        yield client


def test_a_message(client) -> None:
    answer = client.messages.create(
        model=MODEL, system=SYSTEM, messages=CAPITAL, max_tokens=20, extra_body=COLD
    )
    assert "Paris" in answer.content[0].text
    assert (answer.stop_reason, answer.role, answer.model) == ("end_turn", "assistant", MODEL)
    assert answer.usage.output_tokens > 0
    assert answer._request_id.startswith("req_")


def test_a_stream_is_the_same_message(client) -> None:
    with client.messages.stream(
        model=MODEL, system=SYSTEM, messages=CAPITAL, max_tokens=20, extra_body=COLD
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "Paris" in text
    assert final.content[0].text == text
    assert final.stop_reason == "end_turn"
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 10


def test_an_answer_that_was_begun_goes_on(client) -> None:
    begun = [*CAPITAL, {"role": "assistant", "content": "The capital of France"}]
    answer = client.messages.create(
        model=MODEL, system=SYSTEM, messages=begun, max_tokens=20, extra_body=COLD
    )
    assert answer.content[0].text.startswith(" is Paris")


async def test_an_async_stream(served) -> None:
    async with AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        async with client.messages.stream(
            model=MODEL, system=SYSTEM, messages=CAPITAL, max_tokens=5, extra_body=COLD
        ) as stream:
            message = await stream.get_final_message()
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_sequence_is_named(client, streamed: bool) -> None:
    asked = {
        "model": MODEL,
        "system": SYSTEM,
        "messages": CAPITAL,
        "max_tokens": 20,
        "stop_sequences": ["never", "Par"],
        "extra_body": COLD,
    }
    if streamed:
        with client.messages.stream(**asked) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Par")
    assert answer.content[0].text == "The capital of France is "


def test_a_tool_is_called_and_its_result_is_answered(client) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    with client.messages.stream(
        model=MODEL,
        messages=[question],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
        max_tokens=60,
        extra_body=COLD,
    ) as stream:
        called = stream.get_final_message()
    (call,) = [block for block in called.content if block.type == "tool_use"]
    assert called.stop_reason == "tool_use"
    assert (call.name, list(call.input)) == ("get_weather", ["city"])
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 20 degrees"}
    answer = client.messages.create(
        model=MODEL,
        messages=[
            question,
            {"role": "assistant", "content": [block.to_dict() for block in called.content]},
            {"role": "user", "content": [result]},
        ],
        tools=[WEATHER],
        max_tokens=20,
        extra_body=COLD,
    )
    assert answer.content[0].text


def test_a_prompt_is_counted_as_the_engine_counts_it(client) -> None:
    asked = {"model": MODEL, "system": SYSTEM, "messages": CAPITAL}
    counted = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(**asked, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_the_models_are_listed_in_anthropic_s_form(client) -> None:
    models = list(client.models.list())
    assert MODEL in [model.id for model in models]
    assert {model.type for model in models} == {"model"}
    one = client.models.retrieve(MODEL)
    assert one.display_name == MODEL
    assert one.max_input_tokens >= 2048


def test_what_is_not_known_is_ignored_and_told(client) -> None:
    raw = client.messages.with_raw_response.create(
        model=MODEL,
        messages=CAPITAL,
        max_tokens=1,
        extra_body={"context_management": {"edits": []}},
        extra_headers={"anthropic-beta": "context-management-2025-06-27"},
    )
    assert raw.headers["x-reverie-ignored"] == "context_management"
    assert raw.headers["request-id"] == raw.headers["x-request-id"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"model": "gpt-9"}, anthropic.NotFoundError, "There is no such model here"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            anthropic.BadRequestError,
            "prompt is too long: ",
        ),
    ],
)
def test_errors_are_those_that_the_sdk_knows(client, wrong, error, message: str) -> None:
    asked = {"model": MODEL, "messages": CAPITAL, "max_tokens": 5, **wrong}
    with pytest.raises(error, match=message) as caught:
        client.messages.create(**asked)
    assert caught.value.body["type"] == "error"
