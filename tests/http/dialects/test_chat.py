from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai import APIError, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from reverie.errors import BackendError, InvalidRequest, ModelNotFound
from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from reverie.http.dialects import OPENAI
from reverie.http.dialects.base import Asked, Encoder
from reverie.request import GenerateRequest

USAGE = Usage(prompt_tokens=10, completion_tokens=2)


def encoder(*, include_usage: bool = False) -> Encoder:
    return OPENAI.encoder(
        Asked(GenerateRequest(model="m", messages=[], include_usage=include_usage)),
        id="chatcmpl-1",
        model="m",
        created=7,
    )


def chunks(stream: bytes) -> list[dict[str, Any]]:
    lines = [line for line in stream.decode().split("\n\n") if line and line != "data: [DONE]"]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def client(stream: bytes) -> OpenAI:
    """OpenAI's client, whose server answers with that stream."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=stream, headers={"content-type": "text/event-stream"})

    return OpenAI(
        api_key="k",
        base_url="http://reverie.test/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        max_retries=0,
    )


def test_only_the_first_chunk_has_the_role() -> None:
    writer = encoder()
    deltas = [
        chunk["choices"][0]["delta"]
        for stream in (writer.batch([Delta("a"), Delta("b")]), writer.batch([Delta("c")]))
        for chunk in chunks(stream)
    ]
    assert deltas == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {"content": "c"},
    ]


@pytest.mark.parametrize(
    "first",
    [Delta(reasoning="hm"), Delta(tool_calls=(ToolCallDelta(0, "c1", "f"),)), Delta("x" * 99_999)],
    ids=["reasoning", "tool call", "large"],
)
def test_the_role_comes_first_whatever_the_first_delta_is(first: Delta) -> None:
    roles = [
        "role" in chunk["choices"][0]["delta"]
        for chunk in chunks(encoder().batch([first, Delta("y")]))
    ]
    assert roles == [True] + [False] * (len(roles) - 1)


def test_an_answer_without_text_still_has_its_role() -> None:
    first, last = chunks(encoder().end(Finish("stop"), USAGE))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]


def test_the_usage_is_sent_only_if_asked_for_in_a_chunk_without_choices() -> None:
    assert not any("usage" in chunk for chunk in chunks(encoder().end(Finish("stop"), USAGE)))
    stream = encoder(include_usage=True).end(Finish("stop"), USAGE)
    last = chunks(stream)[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 12
    assert stream.endswith(b"\n\ndata: [DONE]\n\n")


def test_a_whole_answer_is_what_openais_types_expect() -> None:
    deltas = [
        Delta(reasoning="Let me see."),
        Delta(tool_calls=(ToolCallDelta(1, "c2", "g", "{}"), ToolCallDelta(0, "c1", "f", '{"a"'))),
        Delta(tool_calls=(ToolCallDelta(0, arguments=":1}"),)),
    ]
    body = encoder().answer(deltas, Finish("tool_calls"), USAGE)
    answer = ChatCompletion.model_validate_json(body, strict=True)
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert [call.to_dict() for call in message.tool_calls] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert json.loads(body)["choices"][0]["message"]["reasoning_content"] == "Let me see."
    assert "logprobs" not in json.loads(body)["choices"][0]


def test_openais_types_read_every_chunk_and_its_helper_puts_them_together() -> None:
    writer = encoder(include_usage=True)
    logprob = TokenLogprob("Hi", -0.5, [72, 105], [TopLogprob("Hi", -0.5), TopLogprob("Ho", -1.5)])
    stream = writer.batch(
        [
            Delta("Hi", logprobs=(logprob,)),
            Delta(" there"),
            Delta(tool_calls=(ToolCallDelta(0, "c1", "f", '{"a":'),)),
            Delta(tool_calls=(ToolCallDelta(0, arguments="1}"),)),
        ]
    ) + writer.end(Finish("tool_calls"), USAGE)
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks(stream):
        for _ in state.handle_chunk(ChatCompletionChunk.model_validate(chunk)):
            pass
    whole = state.get_final_completion()
    (choice,) = whole.choices
    assert choice.message.content == "Hi there"
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.arguments == '{"a":1}'
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert choice.logprobs.content[0].top_logprobs[1].token == "Ho"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 12


@pytest.mark.integration  # the client asks a program of this machine what system it is
def test_openais_client_raises_when_a_stream_breaks() -> None:
    writer = encoder()
    stream = writer.batch([Delta("Hel")]) + writer.error(BackendError("The backend broke off."))
    received = []

    def read_all() -> None:
        with client(stream) as openai:
            answer = openai.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            received.extend(chunk.choices[0].delta.content for chunk in answer)

    with pytest.raises(APIError, match="The backend broke off"):
        read_all()
    assert received == ["Hel"]
    assert b"[DONE]" not in stream


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequest("Wrong.", param="stop"), 400), (ModelNotFound("No such model."), 404)],
)
def test_statuses_are_openais(error: InvalidRequest | ModelNotFound, status: int) -> None:
    assert OPENAI.status(error) == status
    body = json.loads(OPENAI.error_body(error))
    assert body["detail"] == {"msg": error.message}
    assert body["error"]["param"] == error.param
