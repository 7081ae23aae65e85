"""Chunks of many engines become the same events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
GUESSED = Usage(0, 1, estimated=True)
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
    assert read(call, STOP, USAGE)[-2] == Finish("tool_calls")
    assert read(call, delta("length"), USAGE)[-2] == Finish("length")


def test_a_finished_call_has_arguments_and_one_that_was_cut_has_what_it_has() -> None:
    call = delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}])
    first = Delta(tool_calls=(ToolCallDelta(0, "a", "f"),))
    empty = Delta(tool_calls=(ToolCallDelta(0, arguments="{}"),))
    assert read(call, delta("tool_calls"), USAGE)[:2] == [first, empty]
    assert read(call, delta("length"), USAGE)[:2] == [first, Finish("length")]


def test_a_zero_usage_with_the_finish_reason_is_not_the_last_word() -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    decoder = AnswerDecoder()
    decoder.read(json.dumps(delta(content="x")).encode())
    decoder.read(json.dumps({**STOP, "usage": zeros}).encode())
    assert not decoder.complete
    decoder.read(json.dumps(USAGE).encode())
    assert decoder.complete
    assert decoder.end()[-1] == Usage(3, 2)


@pytest.mark.parametrize(
    "usages",
    [
        [{"prompt_tokens": 3, "completion_tokens": 2}, None, {"prompt_tokens": 0}],
        [None, {"prompt_tokens": 3, "completion_tokens": 2}, {"completion_tokens": 0}],
    ],
)
def test_a_later_usage_that_says_nothing_takes_nothing_back(usages: list[Any]) -> None:
    chunks = (delta(content="x"), STOP, {"choices": []})
    sent = [{**chunk, "usage": usage} for chunk, usage in zip(chunks, usages, strict=True)]
    assert read(*sent)[-1] == Usage(3, 2)


def test_a_usage_of_before_the_last_text_is_no_count_of_the_answer() -> None:
    early = {**delta(content="x"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    assert read(early, delta(content="y"), STOP)[-1] == Usage(3, 2, estimated=True)


@pytest.mark.parametrize("beside", [{}, {"message": "late"}, "late"])
def test_after_the_finish_reason_nothing_spoils_the_answer(beside: Any) -> None:
    late = {"choices": {}, "error": beside}
    assert read(delta(content="x"), STOP, late, USAGE) == [Delta("x"), Finish("stop"), Usage(3, 2)]
    assert read(delta(content="x"), STOP, USAGE, b"<html>")[0] == Delta("x")


@pytest.mark.parametrize("nothing", [{}, "", None, [], {"message": None, "code": None}])
@pytest.mark.parametrize("choices", [{}, [], None])
def test_an_empty_error_or_choices_means_nothing(nothing: Any, choices: Any) -> None:
    assert read(
        {**delta(content="x"), "error": nothing},
        {"choices": choices, "error": nothing},
        STOP,
        USAGE,
    ) == [Delta("x"), Finish("stop"), Usage(3, 2)]


def test_what_a_model_says_in_refusal_is_kept_apart() -> None:
    events = read(delta(refusal="I "), delta(refusal="won't."), STOP, USAGE)
    assert events[:2] == [Delta(refusal="I "), Delta(refusal="won't.")]
    whole = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    assert read({**whole, "usage": USAGE["usage"]})[0] == Delta(refusal="No.")


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
            Usage(7, 1, estimated=True),
        ),
        (
            {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(7, 1, estimated=True),
        ),
        (
            {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 110},
            Usage(7, 103),
        ),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 9,
                "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": None},
                "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 2},
            },
            Usage(
                7,
                9,
                2,
                prompt_details={"audio_tokens": 0},
                completion_details={"reasoning_tokens": 4},
            ),
        ),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, GUESSED),
        (None, GUESSED),
        ([], GUESSED),
        ("many", GUESSED),
    ],
)
def test_usage(sent: Any, usage: Usage) -> None:
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


@pytest.mark.parametrize("half", [b"\xf0\x9f", b"\\ud83d"])
def test_half_a_character_in_a_call_or_a_stop_string_is_replaced(half: bytes) -> None:
    def call(name: bytes, arguments: bytes) -> bytes:
        function = b'{"name":"%b","arguments":%b}' % (name, arguments)
        return (
            b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a%b","function":%b}]'
            b"}}]}" % (half, function)
        )

    stop = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":"b%b"}]}' % half
    decoder = AnswerDecoder(functions=frozenset({"get"}))
    assert decoder.read(call(b"g" + half, b'""')) is None  # until more of the name has come
    (held, finish, _) = [*filter(None, [decoder.read(stop)]), *decoder.end()]
    assert isinstance(held, Delta)
    assert isinstance(finish, Finish)
    (whole, *_) = read(call(b"get", b'{"x":"%b"}' % half), STOP, USAGE)
    assert isinstance(whole, Delta)
    for told in (held, finish, whole):
        text = msgspec.json.encode(told).decode()
        assert "\ufffd" in text
    assert held.tool_calls[0].name is not None
    assert held.tool_calls[0].name.rstrip("\ufffd") == "g"
    assert json.loads(whole.tool_calls[0].arguments)["x"].rstrip("\ufffd") == ""


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


@pytest.mark.parametrize("wrong", [-1, 2**31, 0])
def test_progress_on_a_prompt_of_no_possible_size_tells_nothing(wrong: int) -> None:
    decoder = AnswerDecoder()
    decoder.read(b'{"choices":[],"prompt_progress":{"total":%d}}' % wrong)
    assert decoder.prompt is None
    decoder.read(b'{"choices":[],"prompt_progress":{"total":7,"cache":-2}}')
    assert decoder.prompt == Prompt(7)


TEXTS = st.one_of(
    st.sampled_from(["", " word", "\u00e9\u2028", '"\\\n\x1f', "\ud83d", "\ude00", "\U0001f600"]),
    st.text(st.characters(exclude_categories=()), max_size=3),
)
COUNTS: list[Any] = [0, 1, 2, 3, 7, -1, 2**31 - 1, 2**31, 2.0, "3", True, None, []]
ODD: list[Any] = [None, "", "x", 0, 1, True, 1.5, [], [None], {}, {"a": None}, {"message": "m"}]


FIELDS: dict[str, dict[str, list[Any]]] = {
    "chunk": {
        "choices": ODD,
        "usage": ODD,
        "timings": [*ODD, *({"predicted_n": count} for count in COUNTS)],
        "error": ODD,
        "object": [*ODD, "error"],
        "prompt_progress": [*ODD, *({"total": count} for count in COUNTS)],
        "system_fingerprint": ODD,
    },
    "choice": {
        "index": [*ODD, 1],
        "delta": ODD,
        "message": [*ODD, {"content": "whole"}],
        "text": ODD,
        "logprobs": [*ODD, {"content": [{"token": "x", "logprob": -1.0}]}],
        "finish_reason": [*ODD, "stop", "abort"],
        "stop_reason": ODD,
    },
    "delta": {
        "content": ODD,
        "role": ODD,
        "reasoning_content": ODD,
        "reasoning": ODD,
        "refusal": ODD,
        "tool_calls": [*ODD, [{"index": 0, "id": "a", "function": {"name": "f"}}]],
        "function_call": ODD,
    },
    "usage": {
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "total_tokens": COUNTS,
        "prompt_tokens_details": [*ODD, *({"cached_tokens": count} for count in COUNTS)],
        "completion_tokens_details": [*ODD, *({"reasoning_tokens": count} for count in COUNTS)],
        "queue_time": ODD,
    },
}
"""What may stand in a chunk, by the object that it stands in."""


def a_chunk(text: str = "x", counted: str = "", tokens: int = 1) -> dict[str, dict[str, Any]]:
    """The objects of a plain chunk."""
    chunk = {"object": "chat.completion.chunk", **delta(content=text)}
    choice = chunk["choices"][0]
    objects = {"chunk": chunk, "choice": choice, "delta": choice["delta"]}
    if counted == "timings":
        chunk["timings"] = {"predicted_n": tokens}
    elif counted == "usage":
        counts = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        chunk["usage"] = objects["usage"] = counts
    return objects


@st.composite
def chunks(draw: st.DrawFn) -> dict[str, Any]:
    """A piece of text, and up to two oddities."""
    kind = draw(st.sampled_from(["", "timings", "usage"]))
    objects = a_chunk(draw(TEXTS), kind, draw(st.integers(1, 9)))
    chunk = objects["chunk"]
    if draw(st.integers(0, 9)) == 0:
        chunk["choices"].insert(draw(st.integers(0, 1)), {"index": 1, "delta": {"content": "no"}})
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(objects)))
        field = draw(st.sampled_from(sorted(FIELDS[name])))
        objects[name][field] = draw(st.sampled_from(FIELDS[name][field]))
    return chunk


PAYLOADS = st.one_of(
    chunks().map(lambda chunk: json.dumps(chunk).encode()),
    chunks().map(
        lambda chunk: json.dumps(chunk, ensure_ascii=False).encode(errors="surrogatepass")
    ),
    st.sampled_from(
        [b"[DONE]", b" [DONE] ", b"{", b"7", b'{"choices":[{"delta":{"content":"\xf0"}}]}']
    ),
)


def outcome(decoder: AnswerDecoder, payload: bytes, *, shortcut: bool) -> tuple[Any, ...]:
    """What a payload gives, and all that a decoder tells after it."""
    try:
        given = decoder.read(payload) if shortcut else decoder.read_any(payload)
    except EngineError as error:
        given = "reported", error.error
    except BackendError as error:
        given = "failed", error.reason
    told = decoder.deltas, decoder.tokens, decoder.prompt
    return given, *told, decoder.complete, decoder.finished


def end(decoder: AnswerDecoder) -> list[Event] | str:
    try:
        return decoder.end()
    except BackendError as error:
        return str(error.reason)


@pytest.mark.parametrize("counted", ["", "timings", "usage"])
@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields]
)
def test_the_short_way_of_plain_text_takes_nothing_that_is_more(
    name: str, field: str, counted: str
) -> None:
    for value in FIELDS[name][field]:
        objects = a_chunk(counted=counted)
        if name in objects:
            objects[name][field] = value
            assert_alike([json.dumps(objects["chunk"]).encode()], continuous_usage=True)


@given(st.lists(PAYLOADS, max_size=12), st.booleans())
def test_the_short_way_of_plain_text_gives_what_the_rules_for_all_chunks_give(
    payloads: list[bytes], continuous_usage: bool
) -> None:
    assert_alike(payloads, continuous_usage=continuous_usage)


def assert_alike(payloads: list[bytes], *, continuous_usage: bool) -> None:
    short, long = (AnswerDecoder(continuous_usage=continuous_usage) for _ in range(2))
    for payload in payloads:
        assert outcome(short, payload, shortcut=True) == outcome(long, payload, shortcut=False)
    assert end(short) == end(long)
