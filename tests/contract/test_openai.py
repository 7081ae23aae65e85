"""OpenAI's own Python SDK, unchanged, against the real model."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

MODEL = "smollm2-135m"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
CAPITAL = [SYSTEM, {"role": "user", "content": "What is the capital of France? Answer in English."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def client(served):
    with OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("base", ["/v1", "", "/llm"])
def test_every_base_url_that_clients_set_answers(served, base: str) -> None:
    with OpenAI(base_url=served.url + base, api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=CAPITAL, temperature=0, max_tokens=20
        )
        assert "Paris" in answer.choices[0].message.content
        assert MODEL in [model.id for model in client.models.list()]
        assert client.models.retrieve(MODEL).owned_by == "reverie"


def test_the_default_model_answers_to_its_name_on_the_hub(client) -> None:
    alias = "HuggingFaceTB/SmolLM2-135M-Instruct"
    answer = client.chat.completions.create(
        model=alias, messages=CAPITAL, temperature=0, max_tokens=20
    )
    assert "Paris" in answer.choices[0].message.content
    assert alias in [model.id for model in client.models.list()]


def test_an_answer_with_its_reasoning_can_be_sent_back(client) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=20
    )
    said = first.choices[0].message.model_copy(update={"reasoning_content": "Easy."})
    again = [*CAPITAL, {**said.model_dump(), "name": "bot"}, {"role": "user", "content": "Thanks."}]
    second = client.chat.completions.create(
        model=MODEL, messages=again, temperature=0, max_tokens=20
    )
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_stream_has_openais_shape(client) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=CAPITAL,
            temperature=0,
            max_completion_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_carries_it(client) -> None:
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=2, stream=True)
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_the_async_client_streams(served) -> None:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=CAPITAL, temperature=0, max_tokens=20, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "Paris" in text


def test_a_json_schema_constrains_the_answer(client) -> None:
    class Person(BaseModel):
        name: str
        age: int

    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[SYSTEM, {"role": "user", "content": "Invent a person."}],
        response_format=Person,
        temperature=0,
        max_tokens=100,
    )
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    assert person.name


def test_a_required_tool_is_called(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[SYSTEM, {"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=100,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)


def test_a_streamed_tool_call_is_put_together_by_the_sdk(client) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[SYSTEM, {"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
        max_tokens=100,
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert "city" in json.loads(call.function.arguments)


def test_a_conversation_with_tool_results_is_understood(client) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"},
        ],
        tools=[WEATHER],
        temperature=0,
        max_tokens=30,
    )
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_logprobs_are_given_for_each_token(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in content)


def test_a_stop_string_ends_the_answer_before_itself(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=20, stop=["France"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "France" not in answer.choices[0].message.content


def test_the_same_seed_gives_the_same_answer(client) -> None:
    def answer(seed: int) -> str:
        return (
            client.chat.completions.create(
                model=MODEL,
                messages=[SYSTEM, {"role": "user", "content": "Tell me a story."}],
                temperature=1.5,
                seed=seed,
                max_tokens=40,
            )
            .choices[0]
            .message.content
        )

    assert answer(7) == answer(7)
    assert answer(7) != answer(2**40)


def test_a_banned_token_is_not_generated(client) -> None:
    def first_token(**more) -> str:
        answer = client.chat.completions.create(
            model=MODEL, messages=CAPITAL, temperature=0, max_tokens=1, **more
        )
        return answer.choices[0].message.content

    # The two likeliest, nearly equal: which leads depends on what shares the engine's cache.
    likeliest = {"The": "504", "La": "15319"}
    assert first_token() in likeliest
    assert first_token(logit_bias=dict.fromkeys(likeliest.values(), -100)) not in likeliest


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "invalid_request"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_request"),
        ({"n": 99}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"frobnicate": 1}}, openai.BadRequestError, "unsupported_parameter"),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
def test_each_mistake_raises_its_own_error(client, change, error, code) -> None:
    request = {"model": MODEL, "messages": CAPITAL, "max_tokens": 1, **change}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)
    assert caught.value.code == code
    assert caught.value.response.headers["x-request-id"]


def test_a_wrong_key_raises_an_authentication_error(keyed) -> None:
    with OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model=MODEL, messages=CAPITAL)
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("exclude_none", [False, True])
def test_an_answer_goes_back_as_the_sdk_dumps_it(client, exclude_none: bool) -> None:
    first = client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=5)
    said = first.choices[0].message.model_dump(exclude_none=exclude_none)
    again = [*CAPITAL, said, {"role": "user", "content": "Thanks."}]
    assert client.chat.completions.create(model=MODEL, messages=again, max_tokens=5).choices


class Weather(BaseModel):
    city: str


def test_what_the_sdks_helpers_parsed_or_streamed_goes_back(client) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=CAPITAL, response_format=Weather, max_tokens=60, temperature=0
    ).choices[0]
    with client.chat.completions.stream(model=MODEL, messages=CAPITAL, temperature=0) as stream:
        streamed = stream.get_final_completion().choices[0]
    called = client.chat.completions.parse(
        model=MODEL,
        messages=CAPITAL,
        tools=[openai.pydantic_function_tool(Weather)],
        tool_choice="required",
        max_tokens=60,
        temperature=0,
    ).choices[0]
    for choice in (parsed, streamed, called):
        messages = [*CAPITAL, choice.message.model_dump(warnings=False)]
        for call in choice.message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sunny."})
        again = [*messages, {"role": "user", "content": "Thanks."}]
        assert client.chat.completions.create(model=MODEL, messages=again, max_tokens=5).choices
    assert called.message.tool_calls


@pytest.mark.parametrize("arguments", ["", " ", '{"a": "b', '{"a":1}{"b":2}', "[1]", "NaN"])
def test_a_call_whose_arguments_were_cut_can_be_sent_back(client, arguments: str) -> None:
    function = {"name": "get_weather", "arguments": arguments}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    tool = {"role": "tool", "tool_call_id": "c1", "content": "Sunny."}
    answer = client.chat.completions.create(
        model=MODEL, messages=[*CAPITAL, called, tool], tools=[WEATHER], max_tokens=5
    )
    assert answer.choices


@pytest.mark.parametrize("last", ["", "The", "The capital"])
def test_a_last_assistant_message_is_not_gone_on_with_unless_asked(client, last: str) -> None:
    ended = [*CAPITAL, {"role": "assistant", "content": last}]
    anew = (
        client.chat.completions.create(model=MODEL, messages=ended, temperature=0, max_tokens=20)
        .choices[0]
        .message.content
    )
    assert anew
    assert "assistant\n" not in anew
    twice = [*CAPITAL, {"role": "assistant", "content": "Hm."}, ended[-1]]
    assert client.chat.completions.create(model=MODEL, messages=twice, max_tokens=5).choices
    if last:
        continued = (
            client.chat.completions.create(
                model=MODEL,
                messages=ended,
                temperature=0,
                max_tokens=20,
                extra_body={"continue_final_message": True},
            )
            .choices[0]
            .message.content
        )
        assert "Paris" in continued
        assert continued.startswith((" ", "city", "of"))


@pytest.mark.parametrize(
    "control",
    [
        {"repetition_penalty": 1.5},
        {"ignore_eos": True},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_a_control_that_llama_cpp_has_is_taken(client, control: dict[str, object]) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, max_tokens=20, temperature=0, extra_body=control
    )
    if "ignore_eos" in control:
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 20


def test_log_probabilities_alone_have_no_alternatives(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, max_tokens=5, logprobs=True
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 5
    assert all(token.logprob <= 0 and token.top_logprobs == [] for token in tokens)


def test_several_choices_are_answers_of_their_own(client) -> None:
    asked = {"model": MODEL, "messages": CAPITAL, "max_tokens": 12, "n": 3, "seed": 1}
    answer = client.chat.completions.create(**asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    one = client.chat.completions.create(**{**asked, "n": 1})
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens > one.usage.completion_tokens


@pytest.mark.parametrize("prompt", ["The capital of France is", [504, 3575, 282, 4649, 314]])
def test_a_prompt_is_gone_on_with_as_text_or_as_tokens(client, prompt: Any) -> None:
    asked = {"model": MODEL, "prompt": prompt, "max_tokens": 3, "temperature": 0}
    answer = client.completions.create(**asked, logprobs=2)
    (choice,) = answer.choices
    assert choice.text.startswith(" Paris")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    assert answer.usage.prompt_tokens == 5
    streamed = "".join(
        chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)
    )
    assert streamed == choice.text


def test_several_prompts_are_gone_on_with_side_by_side(client) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=2, temperature=0, echo=True
    )
    paris, rome = (choice.text for choice in answer.choices)
    assert paris.startswith(prompts[0] + " Paris")
    assert rome.startswith(prompts[1] + " Rome")


def test_tokens_that_no_model_has_are_the_client_s_mistake(client) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt=[2_000_000_000], max_tokens=1)
