"""The command, as a process of its own."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.integration


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "reverie.testing", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def post(url: str, **more: object) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    body = {"messages": [{"role": "user", "content": "Hi"}], **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    with closing(connection), connection.getresponse() as response:
        yield response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_url_serves_and_stops_on_a_signal(number: signal.Signals) -> None:
    with running("--text", "a b", "--tokens", "5") as (process, url):
        with post(url) as response:
            answer = json.loads(response.read())
        assert answer["choices"][0]["message"]["content"] == "a b a b a"
        assert answer["usage"]["completion_tokens"] == 5
        process.send_signal(number)
        assert process.wait(10) == 0


def test_faults_are_flags() -> None:
    with running("--die-after", "1") as (_, url), post(url, stream=True) as response:
        with pytest.raises(ConnectionResetError):
            response.read()
    with running("--status", "503", "--retry-after", "1") as (_, url), post(url) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


def test_a_signal_ends_it_with_requests_running(tmp_path: Path) -> None:
    with running("--stall-after", "1", "--batch", "1") as (process, url):
        with post(url, stream=True) as response:
            response.read1()
            process.terminate()
            assert process.wait(10) == 0


def test_mistakes_are_explained() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reverie.testing", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    wrong = run("--tokens", "0")
    assert (wrong.returncode, "at least 1" in wrong.stderr) == (2, True)
    nowhere = run("--socket", "/nowhere/engine.sock")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "/nowhere/engine.sock" in nowhere.stderr
    helped = run("--help")
    assert "examples:" in helped.stdout
