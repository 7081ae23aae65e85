"""Ollama's own Python client, unchanged, against the real model."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest
from ollama import AsyncClient, Client

from tests.contract.conftest import KEY, Served, reverie_serve

MODEL = "smollm2-135m"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
QUESTION = {"role": "user", "content": "What is the capital of France? Answer in English."}
CAPITAL = [SYSTEM, QUESTION]
COLD = {"temperature": 0, "num_predict": 20}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ollama")
    with reverie_serve(cwd=folder, REVERIE_SERVER_OLLAMA="true") as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Served) -> Iterator[Client]:
    with Client(host=running.url) as client:
        yield client


def get_weather(city: str) -> str:
    """Get the weather of a city

    Args:
        city: The city
    """
    return f"Sunny in {city}"


def test_a_chat(client: Client) -> None:
    answer = client.chat(model=MODEL, messages=CAPITAL, options=COLD)
    assert "Paris" in (answer.message.content or "")
    assert (answer.message.role, answer.model) == ("assistant", MODEL)
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count or 0) > 10
    assert (answer.eval_count or 0) > 0
    assert (answer.total_duration or 0) >= (answer.eval_duration or 0) > 0


def test_a_stream_is_the_same_chat(client: Client) -> None:
    whole = client.chat(model=MODEL, messages=CAPITAL, options=COLD)
    parts = list(client.chat(model=MODEL, messages=CAPITAL, options=COLD, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]
    assert parts[-1].eval_count == whole.eval_count


async def test_an_async_stream_that_is_cut(running: Served) -> None:
    options = {"temperature": 0, "num_predict": 3}
    async with AsyncClient(host=running.url) as client:
        stream = await client.chat(
            model=f"{MODEL}:latest", messages=CAPITAL, options=options, stream=True
        )
        parts = [part async for part in stream]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 3)


def test_a_prompt_with_a_system_prompt_is_the_same_question(client: Client) -> None:
    chat = client.chat(model=MODEL, messages=CAPITAL, options=COLD)
    answer = client.generate(
        model=MODEL, system=SYSTEM["content"], prompt=QUESTION["content"], options=COLD
    )
    assert answer.response == chat.message.content
    parts = client.generate(
        model=MODEL,
        system=SYSTEM["content"],
        prompt=QUESTION["content"],
        options=COLD,
        stream=True,
    )
    assert "".join(part.response or "" for part in parts) == answer.response


def test_an_answer_that_was_begun_goes_on(client: Client) -> None:
    begun = [*CAPITAL, {"role": "assistant", "content": "The capital of France"}]
    answer = client.chat(model=MODEL, messages=begun, options=COLD)
    assert (answer.message.content or "").startswith(" is Paris")


def test_a_stop_string_ends_the_answer(client: Client) -> None:
    answer = client.chat(model=MODEL, messages=CAPITAL, options={**COLD, "stop": ["Par"]})
    assert answer.message.content == "The capital of France is "
    assert answer.done_reason == "stop"


@pytest.mark.parametrize("form", ["json", "schema"])
def test_a_format_constrains_the_answer(client: Client, form: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "London"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = client.chat(
        model=MODEL,
        messages=CAPITAL,
        format="json" if form == "json" else schema,
        options={"temperature": 0, "num_predict": 60},
    )
    content = answer.message.content or ""
    assert content.startswith("{")
    if form == "schema":
        assert content in ('{"city": "Paris"}', '{"city": "London"}')


def test_tools_that_are_python_functions_are_taken_and_results_come_back(client: Client) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    answer = client.chat(
        model=MODEL,
        messages=[
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_name": "get_weather", "content": get_weather("Paris")},
        ],
        tools=[get_weather],
        options=COLD,
    )
    assert answer.message.content


def test_an_empty_chat_and_an_empty_prompt_load_the_model(client: Client) -> None:
    loaded = client.chat(model=MODEL, messages=[])
    assert (loaded.done, loaded.done_reason) == (True, "load")
    assert client.generate(model=MODEL, keep_alive="5m").done_reason == "load"
    with pytest.raises(ollama.ResponseError, match="operator") as caught:
        client.generate(model=MODEL, keep_alive=0)
    assert caught.value.status_code == 403


def test_the_models_are_listed_shown_and_running(client: Client) -> None:
    by_name = {model.model: model for model in client.list().models}
    model = by_name[f"{MODEL}:latest"]
    assert model.size == 98_362_432
    assert model.modified_at is not None
    assert model.details is not None
    assert (model.details.family, model.details.quantization_level) == ("llama", "Q4_1")
    assert (model.details.parameter_size, model.details.format) == ("134.52M", "gguf")
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    (running,) = client.ps().models
    assert (running.name, running.context_length) == (f"{MODEL}:latest", 8192)


def test_models_are_not_managed_here(client: Client) -> None:
    for manage in (
        lambda: client.pull(MODEL),
        lambda: client.push(MODEL),
        lambda: client.create(model="mine", from_=MODEL),
        lambda: client.copy(MODEL, "mine"),
        lambda: client.delete(MODEL),
    ):
        with pytest.raises(ollama.ResponseError, match="not managed over this API") as caught:
            manage()
        assert caught.value.status_code == 403


def test_a_mistake_is_an_error_with_a_sentence(client: Client) -> None:
    for status, wrong in (
        (404, {"model": "llama3"}),
        (400, {"options": {"temperature": 9}}),
        (400, {"options": {"mirostat": 2}}),
        (400, {"messages": [{"role": "user", "content": "word " * 20_000}]}),
    ):
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError) as caught:
                asked = {"model": MODEL, "messages": CAPITAL, **wrong}
                list(client.chat(stream=stream, **asked))
            assert caught.value.status_code == status
            assert " " in caught.value.error


def test_a_key_goes_in_the_header_that_the_client_sends(tmp_path) -> None:
    with reverie_serve(cwd=tmp_path, REVERIE_SERVER_OLLAMA="true", REVERIE_API_KEYS=KEY) as running:
        with Client(host=running.url) as stranger:
            with pytest.raises(ollama.ResponseError) as caught:
                stranger.list()
        assert caught.value.status_code == 401
        with Client(host=running.url, headers={"Authorization": f"Bearer {KEY}"}) as holder:
            assert holder.list().models
