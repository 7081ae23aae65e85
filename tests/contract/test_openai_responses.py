"""OpenAI's own Python SDK, unchanged, against the real model: its Responses."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

MODEL = "smollm2-135m"
SYSTEM = "You are a helpful assistant."
CAPITAL = "What is the capital of France? Answer in English."
ASKED: dict[str, Any] = {
    "model": MODEL,
    "instructions": SYSTEM,
    "input": CAPITAL,
    "temperature": 0,
    "max_output_tokens": 20,
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def client(served):
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_response(client) -> None:
    response = client.responses.create(**ASKED)
    assert "Paris" in response.output_text
    assert (response.status, response.model, response.error) == ("completed", MODEL, None)
    usage = response.usage
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens > 20


def test_a_stream_is_the_same_response(client) -> None:
    with client.responses.stream(**ASKED) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert "Paris" in text
    assert final.output_text == text == client.responses.create(**ASKED).output_text


async def test_an_async_stream_that_is_cut(served) -> None:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.responses.create(**{**ASKED, "max_output_tokens": 3}, stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert events[-1].response.usage.output_tokens == 3
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_function_is_called_and_its_result_is_answered(client) -> None:
    asked: dict[str, Any] = {**ASKED, "tools": [WEATHER], "max_output_tokens": 60}
    question = {"role": "user", "content": "What is the weather in Paris?"}
    with client.responses.stream(
        **{**asked, "input": [question]},
        tool_choice={"type": "function", "name": "get_weather"},
    ) as stream:
        called = stream.get_final_response()
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert list(call.parsed_arguments) == ["city"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 20 C"}
    history = [question, *[item.to_dict() for item in called.output], result]
    answer = client.responses.create(**{**asked, "input": history, "max_output_tokens": 20})
    assert answer.output_text


def test_an_answer_is_parsed_into_a_type(client) -> None:
    class Capital(BaseModel):
        city: str

    response = client.responses.parse(**{**ASKED, "max_output_tokens": 60}, text_format=Capital)
    assert response.output_parsed.city


def test_a_prompt_is_counted_as_the_engine_counts_it(client) -> None:
    asked = {name: ASKED[name] for name in ("model", "instructions", "input")}
    counted = client.responses.input_tokens.count(**asked).input_tokens
    assert counted == client.responses.create(**ASKED).usage.input_tokens


def test_logprobs_are_those_of_the_text(client) -> None:
    response = client.responses.create(
        **ASKED, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    (part,) = response.output[0].content
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_a_stored_stream_is_retrieved_from_where_it_was_dropped(client) -> None:
    events = list(client.responses.create(**ASKED, stream=True, store=True))
    id = events[0].response.id
    rest = list(client.responses.retrieve(id, stream=True, starting_after=4))
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in events[5:]]
    assert client.responses.retrieve(id).to_dict() == events[-1].response.to_dict()
    with client.responses.stream(response_id=id) as stream:
        assert stream.get_final_response().id == id
    assert client.responses.cancel(id).status == "completed"


@pytest.mark.parametrize(
    ("wrong", "error", "param"),
    [
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
        ({"max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens"),
        ({"model": "nothing"}, openai.NotFoundError, "model"),
    ],
)
def test_errors_are_the_sdk_s_own(client, wrong: dict[str, Any], error: Any, param: str) -> None:
    with pytest.raises(error) as raised:
        client.responses.create(**{**ASKED, **wrong})
    assert raised.value.param == param
