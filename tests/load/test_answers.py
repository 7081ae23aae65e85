"""What is read of an answer: when its tokens came, how many they are, and why there is none."""

from __future__ import annotations

from itertools import pairwise

import pytest

from reverie.load.answers import AnswerReader, Failure, Outcome

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"


def token(text: str, field: str = "content") -> bytes:
    return b'data: {"choices":[{"delta":{"%s":"%s"}}]}\n\n' % (field.encode(), text.encode())


def streamed(*reads: bytes, started: float = 10.0) -> Outcome:
    """The outcome of a stream whose reads come one second after the other."""
    reader = AnswerReader(started, stream=True)
    for number, read in enumerate(reads, 1):
        reader.feed(read, started + number)
    return reader.end(started + len(reads) + 1)


def whole(body: bytes, status: int = 200) -> Outcome:
    reader = AnswerReader(10.0, stream=False)
    reader.status = status
    reader.feed(body, 11.0)
    return reader.end(12.0)


def test_ttft_is_to_the_first_content_and_latency_to_the_last() -> None:
    outcome = streamed(ROLE, token("a"), token("b"), token("c"), END + USAGE + DONE)
    assert (outcome.ttft, outcome.latency) == (2.0, 4.0)
    assert list(outcome.gaps) == [1.0, 1.0]
    assert outcome.failure is None


def test_itl_divides_by_the_tokens_that_the_server_counts() -> None:
    outcome = streamed(token("a"), token("bcd"), token("e"), END, USAGE, DONE)
    assert (outcome.prompt_tokens, outcome.tokens, outcome.counted_here) == (7, 5, False)
    assert outcome.itl == (3.0 - 1.0) / 4


def test_without_usage_events_with_content_are_counted() -> None:
    outcome = streamed(ROLE, token("a"), token("b"), END, DONE)
    assert (outcome.tokens, outcome.counted_here, outcome.itl) == (2, True, 1.0)


def test_one_token_has_no_inter_token_latency() -> None:
    assert streamed(token("a"), END, DONE).itl is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_content(field: str) -> None:
    assert streamed(token("Hm", field), token("a"), END, DONE).ttft == 1.0


def test_a_tool_call_is_content() -> None:
    call = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'
    assert streamed(ROLE, call, END, DONE).ttft == 2.0


def test_it_is_the_same_wherever_the_bytes_are_cut() -> None:
    data = ROLE + token("a") + token("b") + END + USAGE + DONE
    for cut in range(1, len(data)):
        parts = [data[begin:end] for begin, end in pairwise((0, cut, len(data)))]
        outcome = streamed(*parts)
        assert (outcome.tokens, len(outcome.gaps), outcome.failure) == (5, 1, None)


def test_a_whole_answer_has_a_latency_alone() -> None:
    outcome = whole(
        b'{"choices":[{"message":{"content":"Hi"}}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    )
    assert (outcome.latency, outcome.tokens, outcome.itl, outcome.first) == (2.0, 2, None, 0.0)
    assert outcome.failure is None


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (
            b'{"error":{"message":"Slow down.","code":"rate_limit_exceeded"}}',
            Failure("status 429, rate_limit_exceeded", "Slow down."),
        ),
        (b'{"error":"busy"}', Failure("status 429", "busy")),
        (b'{"detail":"No."}', Failure("status 429", "No.")),
        (b"<html>", Failure("status 429")),
    ],
)
def test_a_refusal_is_named_by_status_and_code(body: bytes, failure: Failure) -> None:
    assert whole(body, 429).failure == failure


@pytest.mark.parametrize(
    ("reads", "name"),
    [
        ((token("a"),), "the answer broke off"),
        ((ROLE, END, DONE), "an answer without a token"),
        ((token("a"), b"data: {no\n\n"), "the answer isn't one of an OpenAI-compatible server"),
        (
            (token("a"), b'data: {"error":{"message":"m","code":"overloaded"}}\n\n', DONE),
            "in mid-answer, overloaded",
        ),
    ],
)  # fmt: skip
def test_a_stream_that_is_no_whole_answer_has_failed(reads: tuple[bytes, ...], name: str) -> None:
    failure = streamed(*reads).failure
    assert failure is not None
    assert failure.name == name


def test_an_answer_of_another_kind_has_failed() -> None:
    failure = whole(b"<html>").failure
    assert failure is not None
    assert "OpenAI-compatible" in failure.name
