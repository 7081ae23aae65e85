"""``reverie bench``: a load from the command line, its table and its files."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.testing import Script, ThreadedEngine
from tests.cli.command import errors, reverie
from tests.cli.terminal import terminal

pytestmark = pytest.mark.integration


@pytest.fixture
def engine() -> Iterator[ThreadedEngine]:
    with ThreadedEngine(Script(tokens=("a", "b", "c"))) as running:
        yield running


def test_the_table_and_the_files_have_every_figure(engine: ThreadedEngine, tmp_path: Path) -> None:
    engine.script = Script(tokens=("a", "b", "c"), delay=0.01)  # none comes along with the next
    report, plot = tmp_path / "run.json", tmp_path / "run.svg"
    done = reverie(
        "bench", engine.url, "--concurrency", "3", "--requests", "9", "--warmup", "2",
        "--output-tokens", "7", "--prompt-tokens", "12", "--extra", "temperature=0",
        "--extra", "user=me", "--json", str(report), "--plot", str(plot), REVERIE_API_KEY="rv_key",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"scripted at {engine.url.removesuffix('/v1')}: 9 of 9 requests")
    assert [line.split("  ")[0] for line in lines[3:]] == [
        "figure", "time to first token, ms", "inter-token latency, ms", "between two chunks, ms",
        "request latency, ms", "tokens/s of one answer", "tokens of a prompt",
        "tokens of an answer",
    ]  # fmt: skip
    found = json.loads(report.read_text())
    assert found["load"]["model"] == "scripted"
    assert found["requests"] == {"sent": 9, "answered": 9, "failed": 0, "unfinished": 0}
    assert len(found["answers"]) == 9
    assert found["figures"]["output_tokens"]["p50"] == 3
    assert found["figures"]["inter_chunk_ms"]["count"] == 18
    assert "Time to first token" in plot.read_text()
    asked = [one.body for one in engine.requests if one.body]
    assert len(asked) == 11
    assert {(one["max_tokens"], one["temperature"], one["user"]) for one in asked} == {(7, 0, "me")}
    assert len({one["messages"][0]["content"] for one in asked}) == 11
    assert "rv_key" not in done.stdout + done.stderr + report.read_text()


def test_whole_answers_have_neither_ttft_nor_itl(engine: ThreadedEngine) -> None:
    done = reverie("bench", engine.url, "--no-stream", "--requests", "2", "--json", "-")
    found = json.loads(done.stdout)
    assert list(found["figures"]) == ["request_latency_ms", "prompt_tokens", "output_tokens"]
    assert found["answers"][0]["ttft_ms"] is None


def test_prompts_can_come_from_a_file(engine: ThreadedEngine, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"One"\n{"prompt": "Two", "max_tokens": 2}\n')
    done = reverie(
        "bench", engine.url, "--prompts", str(file), "--requests", "2", "--concurrency", "1"
    )
    assert done.returncode == 0, done.stderr
    asked = [one.body for one in engine.requests if one.body]
    assert [(one["messages"][0]["content"], one["max_tokens"]) for one in asked] == [
        ("One", 64), ("Two", 2),
    ]  # fmt: skip


def test_failures_are_counted_and_named(engine: ThreadedEngine) -> None:
    refused = {"message": "Slow down.", "code": "rate_limit_exceeded"}
    engine.scripts = [Script(status=429, error=refused), Script(status=429, error=refused)]
    done = reverie("bench", engine.url, "--requests", "5", "--concurrency", "1")
    assert done.returncode == 0
    assert "3 of 5 requests answered" in done.stdout
    assert "2 failed" in done.stdout
    assert "failed: 2 × status 429, rate_limit_exceeded: Slow down." in done.stderr


def test_if_nothing_was_answered_it_exits_with_1(engine: ThreadedEngine) -> None:
    engine.script = Script(status=500)
    done = reverie("bench", engine.url, "--requests", "3")
    assert done.returncode == 1
    assert "failed: 3 × status 500" in done.stderr
    assert done.stderr.endswith("error: no request was answered\n")


def test_ctrl_c_prints_what_came_so_far(engine: ThreadedEngine) -> None:
    engine.scripts = [Script(tokens=("a", "b"))] * 2
    engine.script = Script(stall_after=1)
    command = (sys.executable, "-m", "reverie", "bench", engine.url, "--concurrency", "1")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        engine.wait_for(lambda engine: engine.stalled, timeout=20)
        running.send_signal(signal.SIGINT)
        output, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "2 of 3 requests answered" in output
    assert "stopped: 1 requests were under way" in said


def test_on_a_terminal_it_says_how_far_it_has_come(engine: ThreadedEngine, tmp_path: Path) -> None:
    engine.script = Script(stall_after=1)
    with terminal("bench", engine.url, "--requests", "4", cwd=tmp_path) as shown:
        shown.until("0 of 4 done, 4 under way, 0 failed")
        engine.resume()
        assert shown.end() == 0
        assert max(map(len, shown.screen)) <= 80


def test_no_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert errors(reverie("bench", url)) == [f"No server answers at {url} (Connection refused)."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--extra", "temperature"), "write a field and its value, as in temperature=0"),
        (("--prompts", "/nowhere"), "No such file"),
    ],
)
def test_a_mistake_is_a_sentence(
    engine: ThreadedEngine, options: tuple[str, str], said: str
) -> None:
    done = reverie("bench", engine.url, *options)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_an_address_that_cannot_be_used_is_named_as_it_was_given() -> None:
    done = reverie("bench", "nowhere", "--model", "m")
    assert done.returncode == 2
    assert "Invalid value for 'URL': write the server's address" in " ".join(done.stderr.split())


def test_a_file_that_cannot_be_written_is_told_before_anything_is_asked(
    engine: ThreadedEngine, tmp_path: Path
) -> None:
    file = tmp_path / "none" / "run.json"
    done = reverie("bench", engine.url, "--json", str(file))
    assert (done.returncode, engine.completed) == (1, 0)
    assert f"{file} can't be written: No such file or directory" in " ".join(done.stderr.split())
