import pytest

from reverie.testing.wire import BadRequest, RequestReader, chunk, response_head

SIZED = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: e\r\nX-Thing:  a b \r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;note=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)
BARE = b"GET /health HTTP/1.1\r\nHost: e\r\n\r\n"


def test_requests_are_read_whatever_cuts_the_bytes() -> None:
    data = SIZED + CHUNKED + BARE
    for size in (1, 2, 3, 7, len(data)):
        reader = RequestReader()
        requests = [
            request
            for start in range(0, len(data), size)
            for request in reader.feed(data[start : start + size])
        ]
        assert [(r.method, r.path, r.body) for r in requests] == [
            ("POST", "/v1/x", b"hello"),
            ("POST", "/c", b"hello"),
            ("GET", "/health", b""),
        ]
        assert requests[0].headers["x-thing"] == "a b"


def test_a_connection_is_kept_unless_the_client_says_otherwise() -> None:
    kept, closed = RequestReader().feed(
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    [old] = RequestReader().feed(b"GET / HTTP/1.0\r\n\r\n")
    assert (kept.keep_alive, closed.keep_alive, old.keep_alive) == (True, False, False)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_http11_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        RequestReader().feed(data)


def test_a_response_head_names_its_status_even_an_unknown_one() -> None:
    assert response_head(503, {"A": "b"}) == b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n"
    assert response_head(599, {}) == b"HTTP/1.1 599 Unknown\r\n\r\n"


def test_no_data_is_no_chunk_since_that_would_end_the_body() -> None:
    assert chunk(b"") == b""
    assert chunk(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"
