"""Livepeer's own Python SDK, unchanged, against the real model."""

from __future__ import annotations

import json

import pytest
from livepeer_ai import Livepeer
from livepeer_ai.models import components, errors

QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France? Answer in English."},
]


def test_an_answer_is_parsed(served) -> None:
    with Livepeer(server_url=served.url, http_bearer="any") as livepeer:
        answer = livepeer.generate.llm(
            request=components.LLMRequest(messages=QUESTION, temperature=0, max_tokens=20)
        ).llm_response
    assert answer is not None
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "smollm2-135m"


async def test_an_answer_is_parsed_by_the_async_client(served) -> None:
    async with Livepeer(server_url=served.url, http_bearer="any") as livepeer:
        result = await livepeer.generate.llm_async(
            request={"messages": QUESTION, "temperature": 0, "max_tokens": 3}
        )
    assert result.llm_response is not None
    assert result.llm_response.choices[0].finish_reason == "length"
    assert result.llm_response.usage.completion_tokens == 3


def test_a_stream_can_be_read_from_the_error_that_the_sdk_raises(served) -> None:
    """The SDK reads JSON only; what it got is in the exception, whole."""
    with Livepeer(server_url=served.url, http_bearer="any") as livepeer:
        with pytest.raises(errors.SDKError) as caught:
            livepeer.generate.llm(
                request={"messages": QUESTION, "temperature": 0, "max_tokens": 5, "stream": True}
            )
    events = [line[6:] for line in caught.value.body.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert all(chunk["choices"][0]["delta"]["role"] == "assistant" for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_a_validation_error_is_parsed(served) -> None:
    with Livepeer(server_url=served.url, http_bearer="any") as livepeer:
        with pytest.raises(errors.HTTPValidationError) as caught:
            livepeer.generate.llm(request={"messages": QUESTION, "temperature": 9})
    (detail,) = caught.value.data.detail
    assert detail.loc == ["body", "temperature"]


def test_a_400_is_parsed(served) -> None:
    with Livepeer(server_url=served.url, http_bearer="any") as livepeer:
        with pytest.raises(errors.HTTPError) as caught:
            livepeer.generate.llm(request={"messages": QUESTION, "model": "no-such-model"})
    assert "no such model" in caught.value.data.detail.msg


def test_a_401_is_parsed(keyed) -> None:
    with Livepeer(server_url=keyed.url, http_bearer="wrong") as livepeer:
        with pytest.raises(errors.HTTPError) as caught:
            livepeer.generate.llm(request={"messages": QUESTION})
    assert "key" in caught.value.data.detail.msg


def test_the_right_key_is_let_in(keyed) -> None:
    with Livepeer(server_url=keyed.url, http_bearer="contract-key-one") as livepeer:
        answer = livepeer.generate.llm(request={"messages": QUESTION, "max_tokens": 1})
    assert answer.llm_response is not None
