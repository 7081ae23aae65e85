"""What becomes of a server's answers and failures: pieces, or a sentence for the user."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import typer

from reverie.cli.connection import CallFailed, Connection, key_from, without_controls
from reverie.testing import Script, ThreadedEngine

BODY = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def server() -> Iterator[ThreadedEngine]:
    """It answers as a server does."""
    with ThreadedEngine(Script(tokens=("Hello", " wörld"))) as running:
        yield running


def texts(url: str) -> list[str]:
    return [piece.text for piece in Connection(url).stream(BODY) if piece.text]


def failure(url: str) -> str:
    with pytest.raises(CallFailed) as failed:
        texts(url)
    return str(failed.value)


@pytest.mark.integration
@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_an_answer_comes_in_pieces_with_its_end_and_usage(
    server: ThreadedEngine, suffix: str
) -> None:
    pieces = list(Connection(server.url.removesuffix("/v1") + suffix).stream(BODY))
    assert "".join(piece.text for piece in pieces) == "Hello wörld"
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    [usage] = [piece.usage for piece in pieces if piece.usage]
    assert usage["completion_tokens"] == 2


@pytest.mark.integration
@pytest.mark.parametrize("split", [1, 7])
def test_it_is_the_same_however_the_bytes_arrive(server: ThreadedEngine, split: int) -> None:
    server.script = Script(tokens=("Hello", " wörld"), split=split)
    assert "".join(texts(server.url)) == "Hello wörld"


@pytest.mark.integration
def test_reasoning_is_told_apart(server: ThreadedEngine) -> None:
    server.script = Script(reasoning=("Hm.",), tokens=("Yes",))
    pieces = list(Connection(server.url).stream(BODY))
    assert "".join(piece.reasoning for piece in pieces) == "Hm."
    assert "".join(piece.text for piece in pieces) == "Yes"


@pytest.mark.integration
@pytest.mark.parametrize("how", ["reset", "close", "end"])
def test_a_server_that_dies_in_mid_answer_is_a_failure(server: ThreadedEngine, how: str) -> None:
    server.script = Script(tokens=("a", "b", "c"), die_after=1, die_how=how)  # type: ignore[arg-type]
    shown = []
    with pytest.raises(CallFailed, match="broke"):
        for piece in Connection(server.url).stream(BODY):
            shown.append(piece.text)
    assert "".join(shown) == "a"


@pytest.mark.integration
def test_an_error_in_the_stream_is_its_sentence(server: ThreadedEngine) -> None:
    server.script = Script(error_in_stream={"message": "The backend \x1b[2Jfell silent."})
    assert failure(server.url) == "The backend [2Jfell silent."


@pytest.mark.integration
def test_a_refusal_is_the_servers_own_sentence(server: ThreadedEngine) -> None:
    server.script = Script(status=400, error={"message": "max_tokens: too many."})
    assert failure(server.url) == "max_tokens: too many."


@pytest.mark.integration
def test_without_a_key_the_refusal_says_where_to_put_one(server: ThreadedEngine) -> None:
    server.script = Script(status=401, error={"message": "A key is needed."})
    assert failure(server.url) == "A key is needed. Set REVERIE_API_KEY to your key."
    with pytest.raises(CallFailed) as failed:
        list(Connection(server.url, "wrong").stream(BODY))
    assert str(failed.value) == "A key is needed."


@pytest.mark.integration
def test_what_is_no_such_server_is_told(server: ThreadedEngine) -> None:
    server.script = Script(html=True, status=502)
    assert "answers with the status 502" in failure(server.url)
    server.script = Script(raw=b"SSH-2.0-OpenSSH\r\n", die_how="close")
    assert "is it another server?" in failure(server.url)
    server.script = Script(body=b"data: no JSON\n\n")
    assert "is it another server?" in failure(server.url)


@pytest.mark.integration
def test_a_usage_without_numbers_counts_as_none(server: ThreadedEngine) -> None:
    chunk = b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": "many"}}'
    server.script = Script(body=b"data: %b\n\ndata: [DONE]\n\n" % chunk)
    assert [piece.usage for piece in Connection(server.url).stream(BODY)] == [None]


@pytest.mark.integration
def test_nobody_there_is_a_sentence_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert Connection(url).accepts()
    assert not Connection(url).accepts()
    assert failure(url) == f"No server answers at {url} (Connection refused)."


@pytest.mark.integration
def test_the_key_is_sent_in_a_header(server: ThreadedEngine) -> None:
    list(Connection(server.url, "secret").stream(BODY))
    assert server.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.integration
def test_an_answer_that_is_left_is_cancelled(server: ThreadedEngine) -> None:
    server.script = Script(stall_after=1)
    stream = Connection(server.url).stream(BODY)
    next(piece for piece in stream if piece.text)
    stream.close()
    server.wait_for(lambda engine: engine.requests[0].outcome == "cancelled")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("127.0.0.1:8000", "write the server's address"),
        ("ftp://host", "write the server's address"),
        ("http://", "write the server's address"),
        ("http://host:0", "write the server's address"),
        ("http://host:99999", "write the server's address"),
        ("http://me:secret@host", "REVERIE_API_KEY"),
        ("http://host/?key=secret", "leave out"),
    ],
)
def test_an_address_that_can_not_be_used_is_a_mistake(url: str, advice: str) -> None:
    with pytest.raises(typer.BadParameter, match=advice) as wrong:
        Connection(url)
    assert "secret" not in str(wrong.value)


def test_a_key_that_no_header_can_hold_is_told_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REVERIE_API_KEY", " good\n")
    assert key_from() == "good"
    monkeypatch.setenv("REVERIE_API_KEY", "schlüssel")
    with pytest.raises(CallFailed) as failed:
        key_from()
    assert str(failed.value) == "REVERIE_API_KEY has characters that a key can't have"
    monkeypatch.setenv("REVERIE_API_KEY", "")
    assert key_from() is None


def test_what_a_terminal_would_obey_is_left_out() -> None:
    assert without_controls("a\x1b]0;x\x07b\r\n\tc\x9b1m") == "a]0;xb\n\tc1m"
