"""Chunks of many engines become the same events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.backends.decoding.chunks import AnswerDecoder, EngineError
from reverie.errors import BackendError
from reverie.events import (
    Delta,
    Event,
    Finish,
    Prompt,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def read(*chunks: dict[str, Any] | bytes) -> list[Event]:
    """The answer's deltas, then its end."""
    decoder = AnswerDecoder()
    events: list[Event] = []
    for chunk in chunks:
        piece = decoder.read(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode())
        if piece is not None:
            events.append(piece)
    return events + decoder.end()


def test_text_finish_and_usage() -> None:
    assert read(delta(content="Hel"), delta(content="lo"), STOP, USAGE, b"[DONE]") == [
        Delta("Hel"),
        Delta("lo"),
        Finish("stop"),
        Usage(3, 2),
    ]


@pytest.mark.parametrize(
    "nothing",
    [
        delta(role="assistant", content=None),
        delta(content=""),
        delta(),
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]},
        {"choices": []},
        {"choices": None},
        {},
        {"prompt_filter_results": [1], "choices": [], "usage": None, "error": None},
    ],
)
def test_chunks_without_content_give_nothing(nothing: dict[str, Any]) -> None:
    assert read(nothing, delta(content="x"), nothing, STOP, USAGE) == [
        Delta("x"),
        Finish("stop"),
        Usage(3, 2),
    ]


def test_only_the_first_choice_counts() -> None:
    second = {"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}
    first = {"index": 0, "delta": {"content": "yes"}, "finish_reason": None}
    assert read({"choices": [second, first]}, {"choices": [second]}, STOP, USAGE)[:2] == [
        Delta("yes"),
        Finish("stop"),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_under_either_name(field: str) -> None:
    assert read(delta(**{field: "hm"}), STOP, USAGE)[0] == Delta(reasoning="hm")


@pytest.mark.parametrize(
    ("engines", "ours"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
    ],
)
def test_finish_reasons_are_openais(engines: str, ours: str) -> None:
    assert read(delta(engines, content="x"), USAGE)[1] == Finish(ours)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_engine_gave_up_is_a_failure(reason: str) -> None:
    with pytest.raises(BackendError):
        read(delta(content="x"), delta(reason), USAGE)


@pytest.mark.parametrize("end", [[], [b"[DONE]"], [USAGE], [USAGE, b"[DONE]"]])
def test_an_answer_without_a_finish_reason_is_a_failure(end: list[Any]) -> None:
    with pytest.raises(BackendError) as caught:
        read(delta(content="x"), *end)
    assert caught.value.reason == "ended without a finish reason"


def test_tool_calls_in_pieces() -> None:
    def piece(**fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[fields])

    events = read(
        piece(index=0, id="a", type="function", function={"name": "f", "arguments": ""}),
        piece(index=0, function={"arguments": '{"x"'}),
        piece(index=0, function={"arguments": ":1}"}),
        piece(index=1, id="b", function={"name": "g", "arguments": "{}"}),
        delta("tool_calls"),
        USAGE,
    )
    assert events[:-1] == [
        Delta(tool_calls=(ToolCallDelta(0, "a", "f"),)),
        Delta(tool_calls=(ToolCallDelta(0, arguments='{"x"'),)),
        Delta(tool_calls=(ToolCallDelta(0, arguments=":1}"),)),
        Delta(tool_calls=(ToolCallDelta(1, "b", "g", "{}"),)),
        Finish("tool_calls"),
    ]


def test_tool_calls_without_an_index_are_told_apart_by_their_names() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
        {"function": {"arguments": "!"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]
    events = read(*(delta(tool_calls=[call]) for call in calls), STOP, USAGE)
    pieces = [piece for event in events if isinstance(event, Delta) for piece in event.tool_calls]
    assert [(piece.index, piece.arguments) for piece in pieces] == [
        (0, '{"x":1}'),
        (0, "!"),
        (1, "{}"),
    ]


def test_stop_after_tool_calls_means_tool_calls() -> None:
    call = delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}])
    assert read(call, STOP, USAGE)[1] == Finish("tool_calls")
    assert read(call, delta("length"), USAGE)[1] == Finish("length")


def test_logprobs_keep_openais_fields_only() -> None:
    entry = {"id": 5, "token": "a", "bytes": [97], "logprob": -0.5}
    chunk = delta(content="a")
    chunk["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [entry]}]}
    assert read(chunk, STOP, USAGE)[0] == Delta(
        "a", logprobs=(TokenLogprob("a", -0.5, [97], [TopLogprob("a", -0.5, [97])]),)
    )


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}, Usage(7, 2)),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 5},
            },
            Usage(7, 2, 5),
        ),
        (
            {"prompt_tokens": 7, "completion_tokens": None, "prompt_tokens_details": None},
            Usage(7, 0),
        ),
        (
            {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(7, 0),
        ),
    ],
)
def test_usage(sent: dict[str, Any], usage: Usage) -> None:
    assert read(delta(content="x"), STOP, {"choices": [], "usage": sent})[-1] == usage


def test_usage_may_come_with_the_finish_reason_or_with_every_chunk() -> None:
    def counted(chunk: dict[str, Any], tokens: int) -> dict[str, Any]:
        return {**chunk, "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}

    decoder = AnswerDecoder()
    decoder.read(json.dumps(counted(delta(content="x"), 1)).encode())
    assert not decoder.complete
    decoder.read(json.dumps(counted(STOP, 2)).encode())
    assert decoder.complete
    assert decoder.end() == [Finish("stop"), Usage(1, 2)]


def test_usage_that_never_comes_is_estimated() -> None:
    assert read(delta(content="x"), delta(content="y"), STOP)[-1] == Usage(0, 2, estimated=True)


@pytest.mark.parametrize("count", [-1, 2**31, 10**30])
def test_usage_that_can_not_be_is_estimated(count: int) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": count}
    answer = read(delta(content="x"), STOP, {"choices": [], "usage": usage})
    assert answer[-1] == Usage(0, 1, estimated=True)


@pytest.mark.parametrize("field", [b"choices", b"error", b"unknown"])
def test_a_chunk_that_is_nested_too_deeply_is_the_backends_failure(field: bytes) -> None:
    with pytest.raises(BackendError):
        read(b'{"%s":' % field + b'{"a":' * 100_000)


def test_a_whole_completion_gives_the_same_events() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    whole = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 9},
    }
    assert read(whole) == [
        Delta("Hi", "hm", (ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}"))),
        Finish("tool_calls"),
        Usage(3, 9),
    ]


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        ({"error": {"message": "m", "code": 500}}, {"message": "m", "code": 500}),
        ({"error": "m"}, "m"),
        ({"choices": [], "error": {"message": "m"}}, {"message": "m"}),
        ({"object": "error", "message": "m"}, {"object": "error", "message": "m"}),
    ],
)
def test_an_error_in_the_stream_is_raised(chunk: dict[str, Any], error: Any) -> None:
    with pytest.raises(EngineError) as caught:
        read(delta(content="x"), chunk)
    assert caught.value.error == error


@pytest.mark.parametrize(
    "payload", [b"", b"garbage", b"[]", b"7", b'{"choices": 5}', b'{"choices":[{"delta":"x"}]}']
)
def test_what_is_no_chunk_is_a_failure(payload: bytes) -> None:
    with pytest.raises(BackendError):
        read(payload)


def raw(content: bytes) -> bytes:
    return b'{"choices":[{"index":0,"delta":{"content":"' + content + b'"}}]}'


@pytest.mark.parametrize(
    "halves",
    [(b"a\xf0\x9f", b"\x98\x80b"), (b"a\\ud83d", b"\\ude00b"), (b"a\xf0", b"\x9f\x98\x80b")],
)
def test_a_character_cut_over_two_chunks_is_sent_whole(halves: tuple[bytes, bytes]) -> None:
    assert read(*map(raw, halves), raw(b"c"), STOP, USAGE) == [
        Delta("a"),
        Delta("\U0001f600b"),
        Delta("c"),
        Finish("stop"),
        Usage(3, 2),
    ]


@pytest.mark.parametrize("half", [b"a\xf0\x9f", b"a\\ud83d"])
def test_a_character_that_never_completes_is_replaced(half: bytes) -> None:
    assert read(raw(half), STOP, USAGE)[:3] == [Delta("a"), Delta("\ufffd"), Finish("stop")]
    assert read(raw(half), raw(b"b"), STOP, USAGE)[:2] == [Delta("a"), Delta("\ufffdb")]


def test_a_held_half_is_not_lost_to_chunks_without_text() -> None:
    role = delta(role="assistant", content=None)
    events = read(raw(b"\xf0\x9f"), role, raw(b"\x98\x80"), STOP, USAGE)
    assert events[0] == Delta("\U0001f600")


def test_characters_cut_in_tool_arguments_and_reasoning_are_mended_apart() -> None:
    def piece(reasoning: bytes, arguments: bytes) -> bytes:
        return (
            b'{"choices":[{"index":0,"delta":{"reasoning_content":"' + reasoning + b'",'
            b'"tool_calls":[{"index":0,"function":{"arguments":"' + arguments + b'"}}]}}]}'
        )

    events = read(piece(b"\xc3", b"\xf0\x9f"), piece(b"\xa9", b"\x98\x80"), STOP, USAGE)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas) == "\u00e9"
    assert "".join(c.arguments for delta in deltas for c in delta.tool_calls) == "\U0001f600"


def test_a_piece_of_several_tokens_says_so_where_the_engine_does() -> None:
    """An emoji is three tokens on some models; llama.cpp sends it whole."""
    decoder = AnswerDecoder()
    pieces = [
        decoder.read(json.dumps({**delta(content=text), "timings": {"predicted_n": n}}).encode())
        for text, n in (("🎉", 3), (" a", 4), ("", 5), ("🎉", 8))
    ]
    assert [piece.tokens for piece in pieces if piece is not None] == [3, 1, 4]
    assert decoder.tokens == 8


def test_usage_with_each_piece_counts_it_and_tells_the_prompt() -> None:
    decoder = AnswerDecoder(continuous_usage=True)
    for text, count in (("a b c", 3), (" d", 4)):
        usage = {"prompt_tokens": 7, "completion_tokens": count}
        piece = decoder.read(json.dumps({**delta(content=text), "usage": usage}).encode())
        assert piece is not None
        assert piece.tokens == (3 if count == 3 else 1)
    assert decoder.prompt == Prompt(7)


def test_a_lost_usage_is_estimated_from_what_was_told_before_it() -> None:
    decoder = AnswerDecoder()
    decoder.read(b'{"choices":[],"prompt_progress":{"total":7,"cache":2}}')
    decoder.read(json.dumps({**delta(content="🎉"), "timings": {"predicted_n": 3}}).encode())
    decoder.read(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}')
    assert decoder.end()[-1] == Usage(7, 3, 2, estimated=True)
