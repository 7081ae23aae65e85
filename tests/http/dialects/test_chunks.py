"""What holds for the streams of every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from reverie.http.dialects.base import Asked, Dialect, Encoder
from reverie.http.dialects.chunks import with_usage
from reverie.request import GenerateRequest

MAX_LINE = 65_536
USAGE = Usage(prompt_tokens=1, completion_tokens=1)


def encoder(dialect: Dialect, model: str = "m") -> Encoder:
    return dialect.encoder(
        Asked(GenerateRequest(model="m", messages=[], include_usage=True)),
        id="chatcmpl-1",
        model=model,
        created=7,
    )


def lines(stream: bytes) -> list[bytes]:
    assert stream == b"" or stream.endswith(b"\n\n")
    return stream.split(b"\n\n")[:-1]


def choices(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines(stream)]


def said(stream: bytes) -> tuple[str, str, dict[int, str], list[dict[str, Any]]]:
    """Text, reasoning, arguments of each tool call, and logprobs of a stream."""
    text, reasoning = "", ""
    calls: dict[int, str] = {}
    logprobs: list[dict[str, Any]] = []
    for choice in choices(stream):
        delta = choice["delta"]
        text += delta.get("content", "")
        reasoning += delta.get("reasoning_content", "")
        for call in delta.get("tool_calls", []):
            calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
        logprobs += choice.get("logprobs", {}).get("content", [])
    return text, reasoning, calls, logprobs


# Short texts, repeated until some are far over the limit.
_texts = st.builds(
    lambda text, times: text * times,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([0, 1, 1, 1, 1_000, 30_000]),
)
_tops = st.builds(
    TopLogprob,
    token=_texts,
    logprob=st.floats(),
    bytes=st.none() | st.just([255] * 3) | st.just([255] * 9_000),
)
_logprobs = st.builds(
    TokenLogprob,
    token=_texts,
    logprob=st.floats(),
    bytes=st.none() | st.just([255] * 3) | st.just([255] * 9_000),
    top_logprobs=st.lists(_tops, max_size=2).map(lambda tops: tops * 12),
)
_deltas = st.builds(
    Delta,
    text=_texts,
    reasoning=_texts,
    tool_calls=st.lists(
        st.builds(
            ToolCallDelta,
            index=st.integers(0, 2),
            id=st.none() | _texts,
            name=st.none() | _texts,
            arguments=_texts,
        ),
        max_size=2,
    ).map(tuple),
    logprobs=st.lists(_logprobs, max_size=2).map(lambda entries: tuple(entries * 3)),
)


# The fixture is a constant.
@settings(
    max_examples=50,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(st.lists(_deltas, max_size=2))
@example([Delta("\x1f" * 50_000)])
@example([Delta("\U0001f600" * 50_000)])
@example([Delta("\u2028" * 50_000)])
@example([Delta(tool_calls=(ToolCallDelta(0, "\x1f" * 999, "\x1f" * 999, "\x1f" * 50_000),))])
@example(
    [
        Delta(
            text="\x1f" * 256,
            logprobs=(
                TokenLogprob(
                    "\x1f" * 999,
                    -1.0,
                    [255] * 999,
                    [TopLogprob("\x1f" * 999, -1.0, [255] * 999)] * 40,
                ),
            )
            * 3,
        )
    ]
)
def test_any_deltas_are_sent_whole_in_lines_that_clients_can_read(
    dialect: Dialect, deltas: list[Delta]
) -> None:
    stream = encoder(dialect, model="\x1f" * 200).batch(deltas)
    assert all(len(line) <= MAX_LINE for line in lines(stream))
    text, reasoning, calls, logprobs = said(stream)
    assert text == "".join(delta.text for delta in deltas)
    assert reasoning == "".join(delta.reasoning for delta in deltas)
    expected: dict[int, str] = {}
    for delta in deltas:
        for call in delta.tool_calls:
            expected[call.index] = expected.get(call.index, "") + call.arguments
    assert calls == expected
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry["token"] for entry in logprobs] == [entry.token[:256] for entry in entries]


def test_a_line_is_a_line_to_clients_that_split_as_python_does(dialect: Dialect) -> None:
    text = "a\u2028b\u2029c\x85d\re\nf\x0bg\x1ch"
    stream = encoder(dialect).batch([Delta(text)])
    assert len(stream.decode().rstrip("\n").splitlines()) == 1
    assert said(stream)[0] == text


def test_nothing_said_is_nothing_sent(dialect: Dialect) -> None:
    assert encoder(dialect).batch([]) == b""
    assert encoder(dialect).batch([Delta(), Delta(text="")]) == b""


def test_each_delta_is_its_own_chunk(dialect: Dialect) -> None:
    stream = encoder(dialect).batch([Delta("a"), Delta("b"), Delta("ü")])
    assert [choice["delta"]["content"] for choice in choices(stream)] == ["a", "b", "ü"]


def test_no_key_is_null_but_an_open_finish_reason(dialect: Dialect) -> None:
    deltas = [
        Delta("a", logprobs=(TokenLogprob("a", -1.0),)),
        Delta(reasoning="r"),
        Delta(tool_calls=(ToolCallDelta(0, "c1", "f"), ToolCallDelta(0, arguments="{}"))),
    ]
    stream = encoder(dialect).batch(deltas)
    assert stream.count(b"null") == stream.count(b'"finish_reason":null') == len(lines(stream))


def test_the_first_piece_of_a_tool_call_says_which_function(dialect: Dialect) -> None:
    pieces = (ToolCallDelta(0, "c1", "f", "{"), ToolCallDelta(0, arguments="}"))
    stream = encoder(dialect).batch([Delta(tool_calls=pieces)])
    sent = [call for choice in choices(stream) for call in choice["delta"]["tool_calls"]]
    assert sent == [
        {
            "index": 0,
            "id": "c1",
            "type": "function",
            "function": {"name": "f", "arguments": "{"},
        },
        {"index": 0, "function": {"arguments": "}"}},
    ]


def test_a_tokens_logprobs_are_beside_its_text(dialect: Dialect) -> None:
    (choice,) = choices(encoder(dialect).batch([Delta("a", logprobs=(TokenLogprob("a", -1.0),))]))
    assert choice["delta"]["content"] == "a"
    assert choice["logprobs"] == {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]}


@pytest.mark.parametrize(
    ("logprob", "written"),
    [(float("-inf"), -9999.0), (float("nan"), -9999.0), (1e-9, 0.0), (-0.25, -0.25)],
)
def test_logprobs_are_numbers_that_json_can_write(
    dialect: Dialect, logprob: float, written: float
) -> None:
    stream = encoder(dialect).batch([Delta("a", logprobs=(TokenLogprob("a", logprob),))])
    assert said(stream)[3][0]["logprob"] == written


def test_streams_of_one_dialect_do_not_share_state(dialect: Dialect) -> None:
    first, second = encoder(dialect), encoder(dialect)
    assert first.batch([Delta("a")]) == second.batch([Delta("a")])


def test_a_refusal_is_said_as_one(dialect: Dialect) -> None:
    writing = encoder(dialect)
    stream = writing.batch([Delta(refusal="I "), Delta(refusal="won't.")])
    deltas = [choice["delta"] for choice in choices(stream)]
    assert [delta["refusal"] for delta in deltas] == ["I ", "won't."]
    answer = json.loads(writing.answer([Delta(refusal="I won't.")], Finish("stop"), USAGE))
    assert answer["choices"][0]["message"]["refusal"] == "I won't."
    whole = json.loads(writing.answer([Delta("Yes.")], Finish("stop"), USAGE))
    assert "refusal" not in whole["choices"][0]["message"]


def test_what_tokens_were_is_handed_on(dialect: Dialect) -> None:
    usage = Usage(
        9, 7, 4, prompt_details={"audio_tokens": 1}, completion_details={"reasoning_tokens": 5}
    )
    told = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "total_tokens": 16,
        "prompt_tokens_details": {"audio_tokens": 1, "cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    writing = encoder(dialect)
    assert json.loads(writing.answer([], Finish("stop"), usage))["usage"] == told
    *_, last, _ = lines(writing.end(Finish("stop"), usage))
    assert json.loads(last.removeprefix(b"data: "))["usage"] == told


def test_the_usage_so_far_is_on_each_piece(dialect: Dialect) -> None:
    text = 'a"finish_reason":null}]}\n\nb'
    chunks = with_usage(encoder(dialect).batch([Delta(text), Delta("c")]), Usage(7, 2))
    read = [json.loads(line.removeprefix(b"data: ")) for line in lines(chunks)]
    assert [chunk["usage"]["total_tokens"] for chunk in read] == [9, 9]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in read) == text + "c"


_pieces = st.text(max_size=5) | st.sampled_from(
    ["\x7f", "\\u007f", '"', "\\", "\n\n", "\u2028", "é\U0001f600", "x" * 8_190, ""]
)


@given(st.lists(st.builds(Delta, _pieces, st.sampled_from(["", "", "", "hm"])), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_that_come_together_are_written_as_if_each_came_alone(
    dialect: Dialect, deltas: list[Delta]
) -> None:
    together, apart = encoder(dialect), encoder(dialect)
    assert together.batch(deltas) == b"".join(apart.batch([delta]) for delta in deltas)
    after = [Delta("more")]
    assert together.batch(after) == apart.batch(after)
