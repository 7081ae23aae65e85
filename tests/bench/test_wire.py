"""What the load generator reads of an answer does not depend on how its bytes are split."""

from itertools import pairwise

import pytest
from wire import AnswerReader, Refused, StampReader, chat, request, stamp

BODY = b'data: {"content":"%b"}\n\ndata: {"content":"%b"}\n\n' % (stamp(12.5), stamp(13.25))
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n" % (len(BODY), BODY)
    + b"0\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n0\r\n\r\n0123456"


def pieces(data: bytes, *cuts: int) -> list[bytes]:
    return [data[begin:end] for begin, end in pairwise((0, *cuts, len(data)))]


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["chunked", "sized"])
def test_an_answer_ends_with_its_last_byte_wherever_it_is_cut(answer: bytes) -> None:
    for cut in range(1, len(answer)):
        reader = AnswerReader()
        begin, rest = pieces(answer, cut)
        body = reader.feed(begin)
        assert not reader.ended
        body += reader.feed(rest)
        assert reader.ended
        assert body == answer.partition(b"\r\n\r\n")[2]


def test_stamps_are_found_wherever_they_are_cut_and_once() -> None:
    for first in range(1, len(BODY)):
        for second in range(first, len(BODY)):
            reader = StampReader()
            found = [
                moment for piece in pieces(BODY, first, second) for moment in reader.feed(piece)
            ]
            assert found == [12.5, 13.25]


def test_a_refusal_is_an_error_that_says_why() -> None:
    with pytest.raises(Refused, match=r"429 Too Many.*slow down"):
        AnswerReader().feed(b"HTTP/1.1 429 Too Many\r\n\r\nslow down")


def test_a_request_carries_its_key_and_the_length_of_its_body() -> None:
    head, _, body = request(chat(stream=True, tokens=3), secret="k").partition(b"\r\n\r\n")
    assert b"authorization: Bearer k" in head
    assert f"content-length: {len(body)}".encode() in head
