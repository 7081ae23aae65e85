"""``reverie run``, as a user types it and pipes into it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.gateway import KEY, gateway
from tests.cli.terminal import terminal

pytestmark = pytest.mark.integration


@pytest.fixture
def engine() -> Iterator[ThreadedEngine]:
    """It stands for a server: it speaks the same dialect."""
    with ThreadedEngine(Script(tokens=("**Hello**", " wörld"))) as running:
        yield running


def run(
    *arguments: str, piped: bytes | None = None, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("REVERIE_")}
    return subprocess.run(
        [sys.executable, "-m", "reverie", "run", *arguments],
        env={**inherited, **environ},
        input=piped,
        stdin=subprocess.DEVNULL if piped is None else None,
        capture_output=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def test_in_a_pipe_the_answer_is_plain(engine: ThreadedEngine) -> None:
    assert said(run("Hi", "--url", engine.url)) == "**Hello** wörld\n"


def test_what_is_piped_in_stands_below_the_prompt(engine: ThreadedEngine) -> None:
    said(run("summarise", piped="\ufeffA röport\n".encode(), REVERIE_URL=engine.url))
    said(run(piped=b"Hi\n", REVERIE_URL=engine.url))
    asked = [request.body["messages"] for request in engine.requests]
    assert asked == [
        [{"role": "user", "content": "summarise\n\nA röport"}],
        [{"role": "user", "content": "Hi"}],
    ]


def test_every_option_is_sent_and_the_key_comes_from_the_environment(
    engine: ThreadedEngine,
) -> None:
    options = ["--model", "m", "--system", "Brief.", "--max-tokens", "7", "--temperature", "0.5"]
    said(run("Hi", *options, REVERIE_URL=engine.url, REVERIE_API_KEY="secret"))
    [request] = engine.requests
    body = request.body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 7, 0.5)
    assert body["messages"][0] == {"role": "system", "content": "Brief."}
    assert request.headers["authorization"] == "Bearer secret"


def test_an_encoding_that_lacks_a_character_breaks_nothing(engine: ThreadedEngine) -> None:
    environ = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    assert said(run("Hi", "--url", engine.url, **environ)) == "**Hello** w?rld\n"


def test_json_is_the_whole_answer(engine: ThreadedEngine) -> None:
    answer = json.loads(said(run("Hi", "--json", "--url", engine.url)))
    assert answer["choices"][0]["message"]["content"] == "**Hello** wörld"
    assert answer["usage"]["completion_tokens"] == 2


def test_an_answer_that_was_cut_is_noted(engine: ThreadedEngine) -> None:
    engine.script = Script(finish_reason="length")
    done = run("Hi", "--url", engine.url)
    assert (done.returncode, done.stdout) == (0, b"Hello world\n")
    assert b"--max-tokens" in done.stderr


def test_on_a_terminal_markdown_is_rendered(engine: ThreadedEngine, tmp_path: Path) -> None:
    with terminal("run", "Hi", "--url", engine.url, cwd=tmp_path) as shown:
        assert shown.end() == 0
        assert "Hello wörld" in shown.screen
        assert "**" not in shown.written


def test_a_server_that_dies_in_mid_answer_is_a_sentence_below_what_came(
    engine: ThreadedEngine,
) -> None:
    engine.script = Script(tokens=("a", "b"), die_after=1)
    done = run("Hi", "--url", engine.url)
    assert (done.returncode, done.stdout) == (1, b"a\n")
    assert done.stderr.decode() == (
        f"error: The connection to {engine.url.removesuffix('/v1')} broke.\n"
    )


def test_a_server_that_was_named_and_does_not_answer_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for done in (run("Hi", "--url", url), run("Hi", REVERIE_URL=url)):
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == f"error: No server answers at {url} (Connection refused).\n"


def test_a_real_gateway_answers_those_with_a_key(engine: ThreadedEngine, tmp_path: Path) -> None:
    with gateway(tmp_path / "served", engine, keyed=True) as server:
        assert said(run("Hi", "--url", server.url, REVERIE_API_KEY=KEY)) == "**Hello** wörld\n"
        refused = run("Hi", "--url", server.url, REVERIE_API_KEY="rv_wrong")
        assert refused.returncode == 1
        assert refused.stderr.startswith(b"error: ")
        assert b"rv_wrong" not in refused.stderr
        without = run("Hi", "--url", server.url)
        assert b"Set REVERIE_API_KEY to your key." in without.stderr
        unknown = run("Hi", "--url", server.url, "--model", "none", REVERIE_API_KEY=KEY)
        assert (unknown.returncode, unknown.stdout) == (1, b"")
        assert b"no such model" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "piped", "names"),
    [
        ([], None, "'PROMPT'"),
        ([" "], b"\n", "'PROMPT'"),
        (["Hi"], b"\xff\xfe\x00", "UTF-8"),
        (["Hi", "--temperature", "3"], None, "'--temperature'"),
        (["Hi", "--max-tokens", "0"], None, "'--max-tokens'"),
        (["Hi", "--url", "nowhere"], None, "'--url'"),
        (["Hi", "--key", "secret"], None, "--key"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_asked(
    arguments: list[str], piped: bytes | None, names: str
) -> None:
    done = run(*arguments, piped=piped)
    assert (done.returncode, done.stdout) == (2, b"")
    assert names in done.stderr.decode()


def test_ctrl_c_cancels_the_answer_and_exits_with_130(
    engine: ThreadedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("One", " two"), stall_after=1)
    with terminal("run", "Hi", "--url", engine.url, cwd=tmp_path) as shown:
        shown.until("One")
        shown.type("\x03")
        assert shown.end() == 130
        assert "Traceback" not in shown.written
        assert "One" in shown.screen
    engine.wait_for(lambda one: one.requests[0].outcome == "cancelled")


def test_a_reader_that_leaves_ends_it_quietly(engine: ThreadedEngine) -> None:
    engine.script = Script(tokens=tuple(f"{number}\n" for number in range(1000)), delay=0.001)
    process = subprocess.Popen(
        [sys.executable, "-m", "reverie", "run", "Hi", "--url", engine.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(html=True), id="a page"),
        pytest.param(Script(body=b"\xff", headers={"Content-Type": "text/plain"}), id="bytes"),
    ],
)
def test_what_answers_with_something_else_is_asked_once(
    engine: ThreadedEngine, script: Script
) -> None:
    engine.script = script
    done = run("Hi", "--url", engine.url)
    assert done.returncode == 1
    assert b"doesn't answer as Reverie does" in done.stderr
    assert len(engine.requests) == 1


def event(id: str, text: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return f"id: {id}\ndata: {json.dumps(chunk)}\n\n".encode()


def test_an_event_that_was_there_already_is_not_shown_again(engine: ThreadedEngine) -> None:
    engine.script = Script(body=event("7", "one ") + event("3", "two "))
    done = run("Hi", "--url", engine.url)
    assert (done.returncode, done.stdout) == (1, b"one \n")
    assert b"doesn't answer as Reverie does" in done.stderr


def test_an_event_whose_id_is_no_number_is_no_place_to_go_on_from(engine: ThreadedEngine) -> None:
    engine.script = Script(body=event("é", "Hello"))
    done = run("Hi", "--url", engine.url)
    assert (done.returncode, done.stdout) == (1, b"Hello\n")
    assert b"broke off" in done.stderr
    assert len(engine.requests) == 1


def test_a_server_that_loses_every_answer_is_asked_anew_once(engine: ThreadedEngine) -> None:
    lost = {"code": "answer_not_kept", "message": "This answer isn't kept."}
    engine.script = Script(status=409, error=lost)
    done = run("Hi", "--url", engine.url)
    assert (done.returncode, done.stderr) == (1, b"error: This answer isn't kept.\n")
    assert len(engine.requests) == 2


def test_bytes_that_are_no_text_are_a_sentence(engine: ThreadedEngine) -> None:
    done = run(os.fsdecode(b"caf\xe9"), "--url", engine.url)
    assert (done.returncode, engine.requests) == (1, [])
    assert done.stderr == b"error: what was asked isn't text in UTF-8: write it anew\n"
