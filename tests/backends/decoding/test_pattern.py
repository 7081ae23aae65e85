"""What is read by a pattern is what the decoder reads, and everything else is left to that."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding.chunks import AnswerDecoder
from reverie.backends.decoding.pattern import ChunkPattern
from reverie.backends.decoding.reader import AnswerReader, Pieces
from reverie.errors import BackendError
from reverie.events import Delta, Event
from reverie.request import GenerateRequest

HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","choices":'


def payload(text: str = '"a"', *, id: str = "1", more: str = "", delta: str = "") -> bytes:
    """One chunk; ``text`` is JSON."""
    head = HEAD.replace("-1", f"-{id}")
    choice = f'{{"index":0,"delta":{{{delta}"content":{text}}},"finish_reason":null}}'
    return f"{head}[{choice}]{more}}}".encode("utf-8", "surrogatepass")


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


PLAIN = st.text(max_size=6).map(json.dumps) | st.text(max_size=6).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)
ODD_TEXTS = st.sampled_from(
    ['""', "null", '"\\ud83d"', '"\\ude00"', '"\\/\\u0041"', '"a","b"', '"a', 'b"', "7", '"\udc80"']
)
LAST = [
    b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}',
    b"[DONE]",
]
CHUNKS = st.one_of(
    PLAIN.map(payload),
    PLAIN.map(payload),
    PLAIN.map(payload),
    ODD_TEXTS.map(payload),
    st.builds(payload, PLAIN, id=st.sampled_from("12")),
    st.builds(
        payload,
        PLAIN,
        more=st.sampled_from(
            [
                ',"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}',
                ',"timings":{"predicted_n":5}',
                ',"error":{"message":"no"}',
                ',"prompt_progress":{"total":9}',
            ]
        ),
    ),
    st.builds(
        payload,
        PLAIN,
        delta=st.sampled_from(
            [
                '"role":"assistant",',
                '"reasoning_content":"hm",',
                '"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}],',
            ]
        ),
    ),
    st.sampled_from([b"{", *LAST]),
)
STREAMS = st.builds(
    lambda first, chunks: b"".join(map(event, [*first, *chunks, *LAST])),
    st.sampled_from([[], [payload('"x"')], [payload('""', delta='"role":"assistant",')]]),
    st.lists(CHUNKS, max_size=12),
)


def read(stream: bytes, cuts: list[int], *, pieces: Pieces = "apart") -> list[Any]:
    """What a reader makes of a stream, up to the failure that ends it."""
    edges = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    reader = AnswerReader(
        GenerateRequest(model="m", messages=[]), streamed=True, forced=False, pieces=pieces
    )
    events: list[Any] = []
    try:
        for begin, end in pairwise(edges):
            events += reader.feed(stream[begin:end])
        events += reader.end()
    except BackendError as error:
        events.append((type(error), error.reason))
    return [*events, reader.deltas]


def told(events: list[Event]) -> list[str]:
    """Events, each piece of a text alone."""
    single: list[Event] = []
    for event in events:
        pieces = event.pieces if isinstance(event, Delta) else ()
        assert not pieces or event.text == "".join(pieces)
        single += map(Delta, pieces) if pieces else [event]
    return list(map(repr, single))


@given(
    STREAMS,
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from(["apart", "joined", "merged"]),
)
def test_the_pattern_changes_nothing_wherever_a_stream_is_cut(
    stream: bytes, cuts: list[int], pieces: Pieces
) -> None:
    taken = read(stream, cuts, pieces=pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerDecoder, "read_alike", lambda self, data: None)
        patch.setattr(AnswerDecoder, "read_alike_of", lambda self, payloads, begin: [])
        assert told(taken) == told(read(stream, cuts, pieces=pieces))


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=9))
def test_texts_are_cut_out_of_chunks_that_are_alike(texts: list[str]) -> None:
    pattern = ChunkPattern()
    pattern.learn(payload('"chat.completion.chunk"'))
    chunks = [payload(json.dumps(text)) for text in texts]
    assert pattern.known
    assert pattern.texts(b"".join(map(event, chunks))) == texts


@pytest.mark.parametrize(
    "texts",
    [['"a","b"'], ['"a","b"', '"c', 'd"'], ['"a\\"', 'b"'], [""], ['"a"', '""'], ['"a"x'], ["1"]],
)
def test_what_is_not_one_string_for_each_chunk_is_left_alone(texts: list[str]) -> None:
    pattern = ChunkPattern()
    pattern.learn(payload())
    assert pattern.texts(b"".join(event(payload(text)) for text in texts)) is None


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"content":"a","choices":[{"delta":{"content":"a"}}]}',
        b'{"x":[{"content":"a"}],"choices":[{"delta":{"content" : "a" }}],"y":{"content":"a"}}',
        b'{"choices":[{"delta":{"content":"b","content":"a"}}]}',
    ],
)
def test_the_text_is_found_among_others_like_it(chunk: bytes) -> None:
    pattern = ChunkPattern()
    pattern.learn(chunk)
    at = chunk.rindex(b'"a"') if b'"y"' not in chunk else chunk.index(b'"a" }')
    assert pattern.texts(event(chunk[:at] + b'"new"' + chunk[at + 3 :])) == ["new"]
    other = chunk.replace(b'"a"', b'"new"', 1)
    assert pattern.texts(event(other)) == (["new"] if other.index(b"new") == at + 1 else None)


def test_of_payloads_those_before_another_kind_are_taken_together() -> None:
    pattern = ChunkPattern()
    pattern.learn(payload())
    payloads = [payload(), payload('"b"'), payload('"c"'), payload(id="2"), payload('"d"')]
    assert pattern.texts_before_another(payloads, 1) == ["b", "c"]
    assert pattern.texts_before_another(payloads, 3) == []
    assert pattern.known


@pytest.mark.parametrize("texts", [['"a","b"'], ['"a","b"', '"c', 'd"'], ['"a"', '""'], ["1"]])
def test_payloads_that_are_no_string_each_are_left_alone_and_tried_once(texts: list[str]) -> None:
    pattern = ChunkPattern()
    pattern.learn(payload())
    assert pattern.texts_before_another([payload(text) for text in texts], 0) == []
    assert not pattern.known


def test_an_engine_whose_chunks_are_never_alike_is_soon_left_alone() -> None:
    pattern = ChunkPattern()
    for number in range(9):
        pattern.learn(payload(id=str(number)))
    assert not pattern.known
