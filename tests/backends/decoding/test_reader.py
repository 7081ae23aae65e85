"""A whole answer, from its bytes to its last event."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding import reader as reader_module
from reverie.backends.decoding.reader import AnswerReader, merged
from reverie.errors import BackendError
from reverie.events import Delta, Event, Finish, Prompt, TokenLogprob, ToolCallDelta, Usage
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


def test_merging_joins_pieces_of_text_and_nothing_else() -> None:
    call = Delta(tool_calls=(ToolCallDelta(0, "a", "f"),))
    logprob = Delta("d", logprobs=(TokenLogprob("d", -1.0),))
    events: list[Event] = [
        Prompt(3),
        Delta("a"),
        Delta("b", tokens=3),
        logprob,
        Delta("c", tokens=0),
        call,
        Delta("e", reasoning="hm"),
        Delta("f"),
        Delta("g"),
    ]
    assert merged(events) == [
        Prompt(3),
        Delta("ab", tokens=4),
        logprob,
        Delta("c", tokens=0),
        call,
        Delta("e", reasoning="hm"),
        Delta("fg", tokens=2),
    ]
