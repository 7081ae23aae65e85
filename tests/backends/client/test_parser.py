"""A response is the same, however its bytes were cut; what is none is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.client.parser import MAX_HEAD_BYTES, MalformedResponse, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
SHORT = OK + b"Content-Length: 2\r\n\r\nab"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Outcome(NamedTuple):
    """What came of some bytes."""

    status: int = 0
    body: bytes = b""
    ended: bool = False
    reusable: bool = False
    refused: bool = False


def parse(*pieces: bytes, eof: bool = False) -> Outcome:
    parser = ResponseParser()
    refused = False
    for piece in pieces:
        try:
            parser.feed(piece)
        except MalformedResponse:
            refused = True
            break
    if eof and not refused:
        parser.finish()
    return Outcome(
        parser.status,
        b"".join(parser.body),
        parser.ended,
        parser.reusable and parser.ended,
        refused,
    )


GOOD = [
    (SHORT, Outcome(200, b"ab", True, True)),
    (OK + b"Content-Length: 0\r\n\r\n", Outcome(200, b"", True, True)),
    (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Outcome(200, b"", True, True)),
    (CHUNKED + b"2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n", Outcome(200, b"abcde", True, True)),
    (CHUNKED + b"1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n", Outcome(200, b"a", True, True)),
    (OK + b"transfer-encoding: Chunked\r\n\r\n0\r\n\r\n", Outcome(200, b"", True, True)),
    (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", Outcome(200, b"ab", True)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", Outcome(200, b"ab", True)),
    (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
        Outcome(200, b"ab", True, True),
    ),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", Outcome(200, b"ab", True, True)),
    (CHUNKED + b"2  \r\nab\r\n0 \r\n\r\n", Outcome(200, b"ab", True, True)),
    (OK + b"A: b\r\n c\r\nX: \x01\xe9\r\nContent-Length: 0\r\n\r\n", Outcome(200, b"", True, True)),
    (b"HTTP/1.1 204 No\r\n\r\n", Outcome(204, b"", True, True)),
    (b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", Outcome(304, b"", True, True)),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + SHORT, Outcome(200, b"ab", True, True)),
    (
        b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n" + SHORT,
        Outcome(200, b"ab", True, True),
    ),
    (OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nab",
     Outcome(200, b"ab", True, True)),
    (b"HTTP/1.1 503 Gone\r\nContent-Length: 2\r\n\r\nno", Outcome(503, b"no", True, True)),
]  # fmt: skip
CUT = [
    (b"", Outcome()),
    (OK, Outcome()),
    (OK + b"Content-Length: 3\r\n\r\nab", Outcome(200, b"ab")),
    (CHUNKED + b"2\r\nab\r\n", Outcome(200, b"ab")),
    (CHUNKED + b"2\r\nab\r\n0\r\n", Outcome(200, b"ab")),
]
UNTIL_CLOSE = [
    (OK + b"\r\nabc", Outcome(200, b"abc")),
    (OK + b"Transfer-Encoding: identity\r\n\r\nabc", Outcome(200, b"abc")),
    (b"HTTP/1.0 200 OK\r\n\r\n", Outcome(200)),
]
REFUSED = [
    b"220 mail.example ESMTP\r\n\r\n",
    b"SSH-2.0-nonsense\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 99 x\r\n\r\n",
    b"HTTP/1.1 2000 x\r\n\r\n",
    OK + b"Content-Length: banana\r\n\r\n",
    OK + b"Content-Length: -1\r\n\r\n",
    OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    OK + b"Name : x\r\n\r\n",
    CHUNKED + b"ZZ\r\n",
    CHUNKED + b"2\r\nabc\r\n",
    CHUNKED + b"fffffffffffffffffff\r\n",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes",
    b"HTTP/1.1 101 Switching\r\n\r\nbytes",
]


def cut_in_three(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    for first, second in combinations(range(len(data) + 1), 2):
        yield data[:first], data[first:second], data[second:]


@pytest.mark.parametrize(("data", "outcome"), [*GOOD, *CUT, *UNTIL_CLOSE])
def test_a_response_however_it_is_cut(data: bytes, outcome: Outcome) -> None:
    assert parse(data) == outcome
    assert parse(*(data[at : at + 1] for at in range(len(data)))) == outcome
    for pieces in cut_in_three(data):
        assert parse(*pieces) == outcome, pieces


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_no_response_however_it_is_cut(data: bytes) -> None:
    assert parse(data).refused
    assert parse(*(data[at : at + 1] for at in range(len(data)))).refused
    for pieces in cut_in_three(data):
        assert parse(*pieces).refused, pieces


@pytest.mark.parametrize("data", REFUSED)
def test_the_reason_carries_none_of_the_bytes(data: bytes) -> None:
    with pytest.raises(MalformedResponse) as caught:
        ResponseParser().feed(data)
    for word in ("banana", "nonsense", "mail.example"):
        assert word not in str(caught.value)
    assert str(caught.value)


@pytest.mark.parametrize(("data", "outcome"), UNTIL_CLOSE)
def test_a_body_without_a_length_ends_with_the_connection(data: bytes, outcome: Outcome) -> None:
    assert parse(data, eof=True) == outcome._replace(ended=True)


@pytest.mark.parametrize(("data", "outcome"), [*GOOD, *CUT])
def test_no_other_body_is_completed_by_a_close(data: bytes, outcome: Outcome) -> None:
    assert parse(data, eof=True) == outcome


@pytest.mark.parametrize("more", [b"x", SHORT, b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00" * 9])
@pytest.mark.parametrize(("data", "outcome"), GOOD)
def test_bytes_after_the_end_harm_nothing_and_end_the_connection(
    data: bytes, outcome: Outcome, more: bytes
) -> None:
    assert parse(data + more) == outcome._replace(reusable=False)
    for at in range(len(data) + 1, len(data) + len(more)):
        assert parse((data + more)[:at], (data + more)[at:]) == outcome._replace(reusable=False)


def test_one_response_after_the_other() -> None:
    parser = ResponseParser()
    for data, outcome in [*GOOD, *GOOD]:
        if not outcome.reusable:
            continue
        parser.feed(data)
        assert (parser.status, b"".join(parser.body)) == (outcome.status, outcome.body)
        assert parser.ended
        parser.body.clear()
        parser.begin()
        assert (parser.status, parser.headers, parser.ended) == (0, {}, False)


def test_names_are_in_lower_case_and_the_first_of_several_counts() -> None:
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 100 Continue\r\nA: 0\r\n\r\n")
    parser.feed(OK + b"Content-LENGTH: 0\r\nB: 1\r\nb: 2\r\n\r\n")
    assert parser.headers == {b"content-length": b"0", b"b": b"1"}


def test_trailers_are_no_headers() -> None:
    parser = ResponseParser()
    parser.feed(CHUNKED + b"1\r\na\r\n0\r\nRetry-After: 9\r\n\r\n")
    assert parser.headers == {b"transfer-encoding": b"chunked"}


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"A: b\r\n"),
        (OK + b"A: ", b"x" * 64),
        (OK, b"n" * 64),
        (b"", b"\r\n"),
        (CHUNKED + b"1;", b"x" * 64),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\nA: ", b"x" * 64),
    ],
)
def test_what_never_ends_is_refused(start: bytes, more: bytes) -> None:
    parser = ResponseParser()
    parser.feed(start)
    with pytest.raises(MalformedResponse):
        for _ in range(2 * MAX_HEAD_BYTES // len(more)):
            parser.feed(more)


def test_a_head_that_is_too_large_is_refused_in_one_piece_too() -> None:
    large = b"".join(b"A%d: %b\r\n" % (at, b"x" * 1000) for at in range(100))
    with pytest.raises(MalformedResponse, match="too large"):
        ResponseParser().feed(OK + large + b"Content-Length: 0\r\n\r\n")


def test_a_long_body_is_not_bounded() -> None:
    parser = ResponseParser()
    parser.feed(OK + b"Content-Length: 10000000\r\n\r\n")
    for _ in range(100):
        parser.feed(b"x" * 100_000)
    assert parser.ended
    parser.begin()
    parser.body.clear()
    parser.feed(CHUNKED)
    for _ in range(100_000):
        parser.feed(b"1\r\na\r\n")
    parser.feed(b"0\r\n\r\n")
    assert len(parser.body) == 100_000
    assert parser.reusable


PARTS = st.sampled_from(
    [
        OK, b"HTTP/1.1 ", b"100 \r\n\r\n", b"204 \r\n\r\n", b"\r\n", b"\r", b"\n", b"0", b"2",
        b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
        b"Upgrade: x\r\n", b"ab", b"2\r\nab\r\n", b"0\r\n\r\n", b"x:", b" ", b"\x00", b"\xff",
    ]
)  # fmt: skip


@given(st.lists(PARTS | st.binary(max_size=8), max_size=24), st.data())
def test_any_bytes_give_the_same_however_they_are_cut(
    parts: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    bounds = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(bounds)]
    one, many = parse(whole), parse(*pieces)
    assert one == many


@given(st.sampled_from([data for data, _ in GOOD]), st.data())
def test_a_damaged_response_never_ends_as_a_longer_one(good: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    outcome = parse(damaged, eof=True)
    assert len(outcome.body) <= len(damaged)
    assert outcome.reusable <= outcome.ended


@given(st.sampled_from([*GOOD]), st.data())
def test_a_truncated_response_never_looks_whole(
    good: tuple[bytes, Outcome], data: st.DataObject
) -> None:
    bytes_, outcome = good
    at = data.draw(st.integers(0, len(bytes_) - 1))
    if b"\r\n\r\n" in bytes_[:at] and b"ontent-" not in bytes_ and b"ransfer-" not in bytes_:
        return  # a bodiless status is whole with its head
    cut = parse(bytes_[:at], eof=True)
    assert not cut.ended
    assert outcome.body.startswith(cut.body)
