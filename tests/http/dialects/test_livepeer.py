from __future__ import annotations

import json
from typing import Any

from livepeer_ai.models import components

from reverie.errors import BackendError, InvalidRequest, ModelNotFound
from reverie.events import Delta, Finish, ToolCallDelta, Usage
from reverie.http.dialects import LIVEPEER
from reverie.http.dialects.base import Asked, Encoder
from reverie.request import GenerateRequest

USAGE = Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=4)


def encoder() -> Encoder:
    return LIVEPEER.encoder(
        Asked(GenerateRequest(model="m", messages=[], include_usage=False)),
        id="chatcmpl-1",
        model="m",
        created=7,
    )


def chunks(stream: bytes) -> list[dict[str, Any]]:
    lines = [line for line in stream.decode().split("\n\n") if line and line != "data: [DONE]"]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_chunk_has_exactly_the_documented_shape() -> None:
    assert encoder().batch([Delta("tok")]) == (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m",'
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":"tok"},'
        b'"finish_reason":null}]}\n\n'
    )


def test_every_chunk_has_a_choice_with_role_and_string_content() -> None:
    writer = encoder()
    deltas = [
        Delta("a"),
        Delta(reasoning="hm"),
        Delta(tool_calls=(ToolCallDelta(0, "c1", "f", "{}"),)),
        Delta("b"),
    ]
    sent = chunks(writer.batch(deltas) + writer.end(Finish("stop"), USAGE))
    assert len(sent) == 5
    for chunk in sent:
        (choice,) = chunk["choices"]
        assert choice["delta"]["role"] == "assistant"
        assert isinstance(choice["delta"]["content"], str)
        assert "message" not in choice


def test_the_last_chunk_carries_the_true_reason_and_the_usage() -> None:
    end = encoder().end(Finish("length"), USAGE)
    (last,) = chunks(end)
    assert last["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "length"}
    ]
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert end.endswith(b"\n\ndata: [DONE]\n\n")


def test_a_broken_stream_ends_with_an_error_and_no_mark_of_completeness() -> None:
    end = encoder().error(BackendError("The backend broke off.", reason="secret"))
    (last,) = chunks(end)
    assert last["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "error"}
    ]
    assert last["error"] == {
        "message": "The backend broke off.",
        "type": "backend_error",
        "param": None,
        "code": "backend_error",
    }
    assert b"[DONE]" not in end
    assert b"secret" not in end


def test_livepeers_sdk_reads_a_whole_answer() -> None:
    body = encoder().answer([Delta("Hel"), Delta("lo")], Finish("stop"), USAGE)
    answer = components.LLMResponse.model_validate_json(body)
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 12
    assert b"null" not in body
    assert b"delta" not in body


def test_livepeers_sdk_reads_an_answer_with_tool_calls_alone() -> None:
    deltas = [Delta(tool_calls=(ToolCallDelta(0, "c1", "f", "{}"),))]
    body = encoder().answer(deltas, Finish("tool_calls"), USAGE)
    answer = components.LLMResponse.model_validate_json(body)
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == ""


def test_a_validation_error_is_a_422_with_the_list_of_mistakes() -> None:
    error = InvalidRequest("temperature: too high.", param="temperature")
    assert LIVEPEER.status(error) == 422
    assert json.loads(LIVEPEER.error_body(error)) == {
        "detail": [
            {"loc": ["body", "temperature"], "msg": "temperature: too high.", "type": "value_error"}
        ],
        "error": {
            "message": "temperature: too high.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_request",
        },
    }


def test_other_errors_carry_the_message_that_livepeers_clients_show() -> None:
    error = ModelNotFound("No such model.", param="model")
    assert LIVEPEER.status(error) == 400
    assert json.loads(LIVEPEER.error_body(error))["detail"] == {"msg": "No such model."}
