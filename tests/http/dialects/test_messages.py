"""Answers as Anthropic's clients read them: their own SDK follows each stream."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest

from reverie.errors import (
    BackendError,
    BackendTimeout,
    ContextLengthExceeded,
    InvalidApiKey,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    ReverieError,
)
from reverie.events import Delta, Finish, ToolCallDelta, Usage
from reverie.http.dialects import MESSAGES
from reverie.http.dialects.base import Asked, Encoder
from reverie.request import GenerateRequest

USAGE = Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=4)


def encoder() -> Encoder:
    request = GenerateRequest(model="m", messages=[{"role": "user", "content": "Hi"}])
    return MESSAGES.encoder(Asked(request), id="msg-1", model="m", created=7)


def stream(*batches: list[Delta], finish: Finish | None = None) -> bytes:
    writing = encoder()
    written = b"".join(writing.batch(batch) for batch in batches)
    return written + writing.end(finish or Finish("stop"), USAGE)


def events(written: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for event in written.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def understood(written: bytes) -> Any:
    """What Anthropic's SDK makes of a stream."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=written, headers={"content-type": "text/event-stream"})

    with (
        anthropic.Anthropic(
            api_key="k",
            base_url="http://reverie.test",
            http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
            max_retries=0,
        ) as client,
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
        ) as following,
    ):
        return following.get_final_message()


def test_a_text_is_one_block_between_one_start_and_one_stop() -> None:
    written = stream([Delta("Hel"), Delta("lo")], [Delta(" world")])
    assert [name for name, _ in events(written)] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in events(written))
    message = understood(written)
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hello world"}
    ]
    assert message.stop_reason == "end_turn"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 2)


def test_thinking_text_and_calls_are_blocks_of_their_own_in_their_order() -> None:
    message = understood(
        stream(
            [Delta(reasoning="Hm"), Delta(reasoning="m.")],
            [Delta("Let me look.")],
            [Delta(tool_calls=(ToolCallDelta(0, "call_1", "f", '{"a":'),))],
            [Delta(tool_calls=(ToolCallDelta(0, arguments="1}"),))],
            [Delta(tool_calls=(ToolCallDelta(1, "call_2", "g"),))],
            finish=Finish("tool_calls"),
        )
    )
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, first, second = message.content
    assert thinking.thinking == "Hmm."
    assert text.text == "Let me look."
    assert (first.id, first.name, first.input) == ("call_1", "f", {"a": 1})
    assert (second.id, second.name, second.input) == ("call_2", "g", {})
    assert message.stop_reason == "tool_use"


def test_calls_whose_pieces_come_in_turns_are_whole_blocks() -> None:
    def piece(index: int, arguments: str, **first: str) -> Delta:
        return Delta(tool_calls=(ToolCallDelta(index, arguments=arguments, **first),))

    message = understood(
        stream(
            [piece(0, '{"a"', id="c0", name="f"), piece(1, '{"b"', id="c1", name="g")],
            [piece(2, '{"c"', id="c2", name="h"), piece(0, ":0}"), piece(2, ":2}")],
            [Delta("And so."), piece(1, ":1}")],
            finish=Finish("tool_calls"),
        )
    )
    calls = {b.id: (b.name, b.input) for b in message.content if b.type == "tool_use"}
    assert calls == {"c0": ("f", {"a": 0}), "c1": ("g", {"b": 1}), "c2": ("h", {"c": 2})}
    assert [block.text for block in message.content if block.type == "text"] == ["And so."]


@pytest.mark.parametrize(
    ("finish", "reason", "stop"),
    [
        (Finish("stop"), "end_turn", None),
        (Finish("stop", "END"), "stop_sequence", "END"),
        (Finish("length"), "max_tokens", None),
        (Finish("content_filter"), "refusal", None),
    ],
)
def test_why_an_answer_ended_is_told_streamed_or_whole(
    finish: Finish, reason: str, stop: str | None
) -> None:
    message = understood(stream([Delta("Hi")], finish=finish))
    whole = json.loads(encoder().answer([Delta("Hi")], finish, USAGE))
    assert (message.stop_reason, message.stop_sequence) == (reason, stop)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)


def test_an_answer_without_a_token_is_still_a_message() -> None:
    message = understood(stream())
    assert (message.content, message.stop_reason) == ([], "end_turn")


def test_a_whole_answer_has_the_blocks_that_its_stream_has() -> None:
    deltas = [
        Delta(reasoning="Hm."),
        Delta("Look."),
        Delta(tool_calls=(ToolCallDelta(0, "c", "f", '{"a":1}'),)),
        Delta(tool_calls=(ToolCallDelta(1, "d", "g", "broken"),)),
    ]
    whole = json.loads(encoder().answer(deltas, Finish("tool_calls"), USAGE))
    assert whole["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Look."},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "d", "name": "g", "input": {"INVALID_JSON": "broken"}},
    ]
    assert (whole["type"], whole["role"], whole["id"]) == ("message", "assistant", "msg-1")


def test_a_broken_stream_raises_in_the_client() -> None:
    writing = encoder()
    written = writing.batch([Delta("Hal")]) + writing.error(BackendError("It died."))
    with pytest.raises(anthropic.APIStatusError, match=r"It died\."):
        understood(written)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("No."), 400, "invalid_request_error"),
        (InvalidApiKey("No."), 401, "authentication_error"),
        (ModelNotFound("No."), 404, "not_found_error"),
        (Overloaded("No."), 529, "overloaded_error"),
        (ModelLoading("No."), 529, "overloaded_error"),
        (BackendError("No."), 502, "api_error"),
        (BackendTimeout("No."), 504, "timeout_error"),
    ],
)
def test_errors_have_anthropic_s_statuses_and_types(
    error: ReverieError, status: int, kind: str
) -> None:
    assert MESSAGES.status(error) == status
    assert json.loads(MESSAGES.error_body(error)) == {
        "type": "error",
        "error": {"type": kind, "message": "No."},
    }


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_look_for() -> None:
    told = json.loads(MESSAGES.error_body(ContextLengthExceeded(3000, 2048)))
    assert told["error"]["message"] == "prompt is too long: 3000 tokens > 2048 maximum"
