"""The parser gives the same events, however the bytes were cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding.sse import ProtocolError, SSEParser, field_of

CORPUS = [
    (b'data: {"a":1}\n\ndata: {"a":2}\n\n', [b'{"a":1}', b'{"a":2}']),
    (b"\xef\xbb\xbfdata: x\n\n", [b"x"]),
    (b"\xef\xbb\xbf\n\ndata: x\n\n", [b"x"]),
    (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [b"x"]),
    (b"data:x\n\ndata:  y\n\n", [b"x", b" y"]),
    (b"data: x\r\n\r\ndata: y\r\n\r\n", [b"x", b"y"]),
    (b"data: x\r\rdata: y\r\r", [b"x", b"y"]),
    (b"data: x\r\n\ndata: y\n\r\n", [b"x", b"y"]),
    (b"data: x\n\r\rdata: y\r\n\r", [b"x", b"y"]),
    (b"\n\n\ndata: x\n\n\n\n\n\ndata: y\n\n", [b"x", b"y"]),
    (b": ping\n\n:\n\n: a\n: b\ndata: x\n: c\n\n", [b"x"]),
    (b"event: m\nid: 7\nretry: 10\ndata: x\n\nevent: none\n\n", [b"x"]),
    (b"data: a\ndata: b\ndata\ndata:\n\n", [b"a\nb\n\n"]),
    (b"data\n\ndata:\n\n", [b"", b""]),
    (b"dat: x\n\ndatas: x\n\n data: x\n\n", []),
    ("data: \u00e9\U0001f600:\u2028\n\n".encode(), ["\u00e9\U0001f600:\u2028".encode()]),
    (b"data: \xf0\x9f\n\ndata: [DONE]\n\n", [b"\xf0\x9f", b"[DONE]"]),
    (b"data: x\n\ndata: cut", [b"x"]),
    (b"data: x\n\ndata: cut\n", [b"x"]),
    (b"", []),
]


def parse(*pieces: bytes) -> list[bytes]:
    parser = SSEParser()
    return [payload for piece in pieces for payload in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "payloads"), CORPUS)
def test_whole_stream(stream: bytes, payloads: list[bytes]) -> None:
    assert parse(stream) == payloads


@pytest.mark.parametrize(("stream", "payloads"), CORPUS)
def test_every_two_cuts(stream: bytes, payloads: list[bytes]) -> None:
    for first, second in combinations(range(len(stream) + 1), 2):
        pieces = stream[:first], stream[first:second], stream[second:]
        assert parse(*pieces) == payloads, pieces


@pytest.mark.parametrize(("stream", "payloads"), CORPUS)
def test_byte_by_byte(stream: bytes, payloads: list[bytes]) -> None:
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == payloads


def test_the_fields_of_an_event_are_there_wherever_it_is_cut() -> None:
    stream = b"\xef\xbb\xbfid: 1\r\ndata: a\r\n\r\n: ping\n\ndata: b\nid:2\ndata: c\n\nid: 3\n"
    for cut in range(len(stream) + 1):
        parser = SSEParser()
        events = [*parser.feed_events(stream[:cut]), *parser.feed_events(stream[cut:])]
        found = [(field_of(event, b"id"), field_of(event, b"data")) for event in events]
        assert found == [(b"1", b"a"), (None, None), (b"2", b"b\nc")], cut


PARTS = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b":", b" ", b"data", b"data: ", b"event:x", b"\xef\xbb\xbf", b"x", b"y"]
)


@given(st.lists(PARTS, max_size=30).map(b"".join), st.lists(st.integers(0, 200), max_size=6))
def test_any_bytes_at_any_cuts(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in pairwise(edges)]
    assert parse(*pieces) == parse(stream) == parse(*(bytes([byte]) for byte in stream))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r", b"\r\r"])
def test_an_event_is_given_with_the_read_that_ends_it(end: bytes) -> None:
    parser = SSEParser()
    assert parser.feed(b"data: x" + end[:-1]) == []
    assert parser.feed(end[-1:]) == [b"x"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_that_never_ends_is_refused(size: int) -> None:
    parser = SSEParser(limit=64)
    with pytest.raises(ProtocolError):
        for _ in range(1000):
            parser.feed(b"x" * size)


def test_an_oversized_event_is_refused_even_when_it_is_whole() -> None:
    with pytest.raises(ProtocolError):
        SSEParser(limit=64).feed(b"data: " + b"x" * 64 + b"\n\n")


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    assert len(SSEParser(limit=64).feed(b"data: x\n\n" * 1000)) == 1000
