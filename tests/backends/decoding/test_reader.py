"""A whole answer, from its bytes to its last event."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding import reader as reader_module
from reverie.backends.decoding.reader import AnswerReader
from reverie.errors import BackendError
from reverie.events import Delta, Event, Finish, Prompt, Usage
from reverie.request import GenerateRequest

Ask = Callable[..., GenerateRequest]

STREAM = (
    b'\xef\xbb\xbf: ping\r\n\r\ndata: {"choices":[{"index":0,"delta":{"content":null}}]}\r\n\r\n'
    b'data:{"choices":[{"index":0,"delta":{"content":"h\xc3\xa9\xf0\x9f"}}]}\n\n'
    b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"\x98\x80\\ud83d"}}]}\n\n'
    b'event: x\rdata: {"choices":[{"index":0,"delta":{"content":"\\ude00!"}}]}\r\r'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_cut_anywhere(cuts: list[int]) -> None:
    request = GenerateRequest(model="m", messages=[])
    reader = AnswerReader(request, streamed=True, forced=False)
    events: list[Event] = []
    for begin, end in pairwise([0, *sorted(cuts), len(STREAM)]):
        events += reader.feed(STREAM[begin:end])
    assert reader.complete
    events += reader.end()
    text = "".join(event.text for event in events if isinstance(event, Delta))
    assert text == "h\u00e9\U0001f600\U0001f600!"
    assert events[-2:] == [Finish("length"), Usage(1, 2)]


@pytest.mark.parametrize("end", range(0, len(STREAM) - 110, 7))
def test_a_stream_that_ends_early_is_a_failure(ask: Ask, end: int) -> None:
    reader = AnswerReader(ask(), streamed=True, forced=False)
    reader.feed(STREAM[:end])
    assert not reader.finished or b'"length"' in STREAM[:end]
    if not reader.finished:
        with pytest.raises(BackendError):
            reader.end()


def test_deltas_are_counted_while_a_forced_call_gives_no_events(ask: Ask) -> None:
    reader = AnswerReader(ask(), streamed=True, forced=True)
    chunk = {"choices": [{"index": 0, "delta": {"content": '{"na'}}]}
    assert reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n") == []
    assert reader.deltas == 1


def test_a_body_that_never_ends_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_BODY_BYTES", 1000)
    reader = AnswerReader(ask(), streamed=False, forced=False)
    with pytest.raises(BackendError):
        for _ in range(20):
            reader.feed(b" " * 100)


def test_a_stream_that_does_not_stop_at_max_tokens_is_refused(ask: Ask) -> None:
    reader = AnswerReader(ask(max_tokens=10), streamed=True, forced=False)
    token = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    for _ in range(20):  # a token may come in pieces
        reader.feed(token)
    with pytest.raises(BackendError):
        for _ in range(200):
            reader.feed(token)


def llamacpp(choices: str, more: str = "") -> bytes:
    """A chunk as llama.cpp sends it."""
    return (
        f'data: {{"choices":[{choices}],"created":1796002346,"id":"chatcmpl-4FKEYmlyduUHHtLr2XV3",'
        f'"model":"m","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"{more}}}\n\n'
    ).encode()


def timings(tokens: int) -> str:
    return (
        ',"timings":{"cache_n":0,"prompt_n":35,"prompt_ms":300.849,"prompt_per_token_ms":8.5956857,'
        f'"prompt_per_second":116.33743173485702,"predicted_n":{tokens},"predicted_ms":113.375,'
        '"predicted_per_token_ms":56.6875,"predicted_per_second":17.640573318632857}'
    )


def vllm(choice: str, usage: str) -> bytes:
    """A chunk as vLLM sends it."""
    return (
        'data: {"id":"chatcmpl-8f1d","object":"chat.completion.chunk","created":1796002346,'
        f'"model":"m","choices":[{choice}],"usage":{usage}}}\n\n'
    ).encode()


RECORDED = {
    "llamacpp": (
        llamacpp(
            '{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}',
            timings(0) + ',"prompt_progress":{"total":35,"cache":0,"processed":35,"time_ms":300}',
        )
        + b"".join(
            llamacpp(
                f'{{"finish_reason":null,"index":0,"delta":{{"content":"{text}"}}}}',
                timings(tokens),
            )
            for text, tokens in (("\U0001f31f", 3), (" A", 4), ("\\n", 5), ("\U0001f31f", 8))
        )
        + llamacpp('{"finish_reason":"length","index":0,"delta":{}}')
        + llamacpp(
            "",
            ',"usage":{"completion_tokens":8,"prompt_tokens":35,"total_tokens":43,'
            '"prompt_tokens_details":{"cached_tokens":0}}' + timings(8),
        )
        + b"data: [DONE]\n\n",
        [
            Prompt(35),
            Delta("\U0001f31f", tokens=3),
            Delta(" A"),
            Delta("\n"),
            Delta("\U0001f31f", tokens=3),
            Finish("length"),
            Usage(35, 8),
        ],
    ),
    "vllm": (
        vllm(
            '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            '"finish_reason":null}',
            '{"prompt_tokens":7,"total_tokens":7,"completion_tokens":0}',
        )
        + b"".join(
            vllm(
                f'{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,'
                '"finish_reason":null,"token_ids":null}',
                f'{{"prompt_tokens":7,"total_tokens":{7 + tokens},"completion_tokens":{tokens}}}',
            )
            for text, tokens in (("a b", 2), (" c", 3), (" d e f", 6))
        )
        + vllm(
            '{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop",'
            '"stop_reason":"END","token_ids":null}',
            '{"prompt_tokens":7,"total_tokens":14,"completion_tokens":7}',
        )
        + vllm("", '{"prompt_tokens":7,"total_tokens":14,"completion_tokens":7}')
        + b"data: [DONE]\n\n",
        [
            Prompt(7),
            Delta("a b", tokens=2),
            Delta(" c"),
            Delta(" d e f", tokens=3),
            Finish("stop", "END"),
            Usage(7, 7),
        ],
    ),
}


@pytest.mark.parametrize("engine", RECORDED)
def test_what_engines_send_gives_the_same_events_wherever_it_is_cut(ask: Ask, engine: str) -> None:
    stream, events = RECORDED[engine]
    middle = len(stream) // 2
    cuts = [{at} for at in range(len(stream))] + [{at, middle} for at in range(0, len(stream), 7)]
    for inner in [*cuts, set(range(1, len(stream)))]:
        edges = sorted({0, *inner, len(stream)})
        reader = AnswerReader(ask(), streamed=True, forced=False, continuous_usage=engine == "vllm")
        given: list[Event] = []
        for begin, end in pairwise(edges):
            given += reader.feed(stream[begin:end])
        assert reader.complete
        assert given + reader.end() == events
