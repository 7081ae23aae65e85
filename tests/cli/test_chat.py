"""``reverie chat`` in a pseudo-terminal, against a real gateway over a scripted engine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.command import reverie
from tests.cli.gateway import KEY, configure, gateway
from tests.cli.terminal import Terminal, terminal
from tests.cli.test_serve import Serving, serving
from tests.ports import free_port

pytestmark = pytest.mark.integration

PNG = b"\x89PNG\r\n\x1a\nrest"


@pytest.fixture
def engine() -> Iterator[ThreadedEngine]:
    with ThreadedEngine(Script(tokens=("**Hello**", " world"))) as running:
        yield running


@pytest.fixture
def server(engine: ThreadedEngine, tmp_path: Path) -> Iterator[Serving]:
    with gateway(tmp_path / "served", engine) as running:
        yield running


def chat(
    server: Serving, folder: Path, *arguments: str, **environ: str
) -> AbstractContextManager[Terminal]:
    return terminal("chat", "--url", server.url, *arguments, cwd=folder, **environ)


def type_line(shown: Terminal, line: str, answer: str) -> str:
    """Type a line at the prompt; wait for what is said to it, and for the next prompt."""
    shown.type(line + "\r")
    shown.until(answer)
    return shown.until(">>> ")


def asked(engine: ThreadedEngine) -> list[dict[str, Any]]:
    return [request.body for request in engine.requests]


def test_answers_stream_as_markdown_with_their_tokens_and_the_talk_goes_on(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    with chat(server, tmp_path, "--system", "Be brief.", "--temperature", "0.5") as shown:
        shown.until("m at http://")
        shown.until(">>> ")
        after = type_line(shown, "Hi", "Hello world")
        assert re.search(r"2 tokens .*s to the first", after)
        type_line(shown, "More", "Hello world")
        shown.type("\x04")
        assert shown.end() == 0
        assert "**" not in shown.written
    first, second = asked(engine)
    assert first["temperature"] == 0.5
    assert [message["content"] for message in second["messages"]] == [
        "Be brief.",
        "Hi",
        "**Hello** world",
        "More",
    ]


def test_ctrl_c_stops_the_answer_and_not_the_program(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    engine.scripts = [Script(tokens=("Wait", " more"), stall_after=1)]
    with chat(server, tmp_path) as shown:
        shown.until(">>> ")
        shown.type("Hi\r")
        shown.until("Wait")
        shown.type("\x03")
        shown.until("(stopped)")
        shown.until(">>> ")
        engine.wait_for(lambda one: one.requests[0].outcome == "cancelled")
        type_line(shown, "Again", "Hello world")
        shown.type("half a line")
        shown.until("half a line")
        shown.type("\x03")
        shown.until("Ctrl-D or /quit ends")
        shown.until(">>> ")
        type_line(shown, "Yet again", "Hello world")
        shown.type("/quit\r")
        assert shown.end() == 0
    contents = [message["content"] for message in asked(engine)[-1]["messages"]]
    assert contents[:3] == ["Hi", "Wait", "Again"]  # what had come stays
    assert contents[-1] == "Yet again"


def test_lines_join_to_one_message(server: Serving, engine: ThreadedEngine, tmp_path: Path) -> None:
    with chat(server, tmp_path) as shown:
        shown.until(">>> ")
        shown.type("one\\\r")
        shown.until("... ")
        type_line(shown, "two", "Hello world")
        shown.type('"""\r')
        shown.until("... ")
        shown.type("/help is text here\r")
        shown.until("... ")
        type_line(shown, '"""', "Hello world")
        shown.type("\x04")
        assert shown.end() == 0
    messages = asked(engine)[-1]["messages"]
    assert [messages[0]["content"], messages[2]["content"]] == ["one\ntwo", "/help is text here"]


def test_the_history_comes_back_in_the_next_session(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    for arrow in ("", "\x1b[A"):
        with chat(server, tmp_path) as shown:
            shown.until(">>> ")
            type_line(shown, arrow or "remember me", "Hello world")
            shown.type("\x04")
            assert shown.end() == 0
    assert [body["messages"][-1]["content"] for body in asked(engine)] == ["remember me"] * 2


def test_commands_change_the_requests_to_come(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    with chat(server, tmp_path, REVERIE_API_KEY="rv_secret") as shown:
        shown.until(">>> ")
        type_line(shown, "/model", "* m")
        type_line(shown, "/model other", "other from now on")
        type_line(shown, "/model none", "there is no model none; there are m, other")
        type_line(shown, "/system Be brief.", "Be brief.")
        type_line(shown, "/set temperature 0.25", "temperature = 0.25")
        type_line(shown, "/set max_tokens", "max_tokens = default")
        type_line(shown, "/set colour red", "there is no colour")
        type_line(shown, "/image cat.png", "goes with the next question")
        type_line(shown, "/image none.png", "can't be read")
        type_line(shown, "What is it?", "Hello world")
        type_line(shown, "/save talk.json", "saved as talk.json")
        type_line(shown, "/save talk.json", "is there already")
        type_line(shown, "/new", "begins anew")
        type_line(shown, "/help", "/save FILE")
        type_line(shown, "/dance", "there is no /dance")
        type_line(shown, "Hi", "Hello world")
        shown.type("/quit\r")
        assert shown.end() == 0
        assert "rv_secret" not in shown.written
    first, second = asked(engine)
    assert first["temperature"] == 0.25
    system, question = first["messages"]
    assert system["content"] == "Be brief."
    assert question["content"][1]["type"] == "image_url"
    assert [message["content"] for message in second["messages"]] == ["Be brief.", "Hi"]
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert (saved["model"], saved["messages"][-1]["content"]) == ("other", "**Hello** world")
    assert "rv_secret" not in (tmp_path / "state" / "reverie" / "chat_history").read_text()


def test_errors_do_not_end_the_chat(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    engine.scripts = [Script(status=400, error={"message": "The roles must alternate."})]
    with chat(server, tmp_path) as shown:
        shown.until(">>> ")
        type_line(shown, "Hi", "error: ")
        type_line(shown, "Again", "Hello world")
        server.process.kill()
        server.process.wait()
        type_line(shown, "Still there?", "error: No server answers at")
        shown.type("\x04")
        assert shown.end() == 0
    assert [message["content"] for message in asked(engine)[-1]["messages"]] == ["Again"]


def test_an_answer_whose_server_stays_away_can_be_stopped_and_what_came_stays(
    server: Serving, engine: ThreadedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("Half", " more"), stall_after=1)
    with chat(server, tmp_path) as shown:
        shown.until(">>> ")
        shown.type("Hi\r")
        shown.until("Half")
        server.process.kill()
        shown.until("trying to go on")
        shown.type("\x03")
        shown.until("(stopped)")
        shown.until(">>> ")
        shown.type("\x04")
        assert shown.end() == 0
        assert any(line.startswith("Half") for line in shown.screen)


def test_a_wrong_key_ends_the_chat_before_it_begins(engine: ThreadedEngine, tmp_path: Path) -> None:
    with gateway(tmp_path / "served", engine, keyed=True) as server:
        with chat(server, tmp_path, REVERIE_API_KEY="rv_wrong") as shown:
            assert shown.end() == 1
            assert "error: " in shown.written
            assert "rv_wrong" not in shown.written
        with chat(server, tmp_path, REVERIE_API_KEY=KEY) as shown:
            shown.until(">>> ")
            type_line(shown, "Hi", "Hello world")


def test_an_unknown_model_is_told_at_once(server: Serving, tmp_path: Path) -> None:
    with chat(server, tmp_path, "--model", "none") as shown:
        assert shown.end() == 1
        assert "error: There is no model none; there are m, other." in shown.written


def test_a_pipe_is_sent_to_run() -> None:
    done = reverie("chat")
    assert done.returncode == 2
    assert "use reverie run" in done.stderr


def test_an_answer_begins_anew_where_the_model_can_not_go_on(
    engine: ThreadedEngine, tmp_path: Path
) -> None:
    """The server is killed, and another one started in its place."""
    engine.script = Script(tokens=("Half", " more"), stall_after=1)
    port = ["--port", str(free_port())]
    configure(tmp_path, engine)
    with ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, port, start_new_session=True))
        shown = stack.enter_context(chat(first, tmp_path))
        shown.until(">>> ")
        shown.type("Hi\r")
        shown.until("Half")
        first.process.kill()
        first.process.wait()
        shown.until("trying to go on")
        engine.script = Script(tokens=("**Whole**", " answer"), continues=False)
        second = stack.enter_context(serving(tmp_path, port, start_new_session=True))
        assert second.url == first.url
        shown.until("it begins anew")
        shown.until("Whole answer")
        shown.until(">>> ")
        type_line(shown, "And?", "Whole answer")
        shown.type("\x04")
        assert shown.end() == 0
    messages = [message["content"] for message in asked(engine)[-1]["messages"]]
    assert messages == ["Hi", "**Whole** answer", "And?"]


@pytest.mark.parametrize("listed", ['["a", 5]', '[{"id": 5}]', '{"a": 1}'])
def test_another_servers_list_of_models_is_told(tmp_path: Path, listed: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'{{"data": {listed}}}'.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        with terminal("chat", "--url", url, cwd=tmp_path) as shown:
            assert shown.end() == 1
        other.shutdown()
    assert "doesn't answer as Reverie does" in " ".join(shown.written.split())
