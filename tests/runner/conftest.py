"""Runners over the real engine and the default model, and over scripts that play an engine."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from reverie.models.store import fetch
from reverie.runner.supervisor import Runner
from reverie.settings import ModelSettings

StartRunner = Callable[..., Awaitable[Runner]]
Ask = Callable[..., Awaitable[tuple[int, Any]]]
MakeBinary = Callable[..., Path]


@pytest.fixture(scope="session")
def model() -> Path:
    return fetch("smollm2-135m")


@pytest.fixture
def rename_in_model(model: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Copy the model with one name in its header changed to another of the same length."""

    def rename(old: str, new: str) -> Path:
        assert len(old) == len(new)
        file = tmp_path / "changed.gguf"
        file.write_bytes(model.read_bytes().replace(old.encode(), new.encode(), 1))
        return file

    return rename


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
async def start_runner(model: Path) -> AsyncIterator[StartRunner]:
    """Start runners: ``await start_runner(file, load_timeout=…, slots=…)``."""
    async with AsyncExitStack() as stack:

        async def start(
            file: Path = model, *, load_timeout: float = 60.0, **settings: Any
        ) -> Runner:
            small = {"slots": 2, "kv_tokens": 2048, "cache_mib": 0, **settings}
            configured = ModelSettings(name="m", source="file", **small)
            runner = Runner("m", file, configured, load_timeout=load_timeout)
            stack.push_async_callback(runner.stop)
            await runner.start()
            return runner

        yield start


@pytest.fixture
def ask() -> Ask:
    """GET, or POST a body to, the engine; gives the status and the parsed answer."""

    async def ask(runner: Runner, path: str, body: Any = None) -> tuple[int, Any]:
        method = "GET" if body is None else "POST"
        connector = aiohttp.UnixConnector(str(runner.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.request(method, f"http://engine{path}", json=body) as response,
        ):
            return response.status, json.loads(await response.read())

    return ask


_FAKE_SERVER = """
import http.server, json, os, socketserver, sys

argv = sys.argv[1:]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        about = {"argv": argv, "environ": dict(os.environ)}
        body = json.dumps(about | {"default_generation_settings": {"n_ctx": 512}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_): pass
    def address_string(self): return "socket"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(argv[argv.index("--host") + 1], Handler).serve_forever()
"""


@pytest.fixture
def make_binary(tmp_path: Path) -> MakeBinary:
    """Write an executable script of Python, which plays a ``llama-server``."""

    def make(code: str = _FAKE_SERVER) -> Path:
        file = tmp_path / "llama-server"
        file.write_text(f"#!{sys.executable} -S\n{code}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    return make


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def wait_gone() -> Callable[[int], Awaitable[None]]:
    """Wait until there is no such process, or it merely waits to be reaped."""

    async def wait(pid: int) -> None:
        async with asyncio.timeout(10):
            while _is_alive(pid):
                await asyncio.sleep(0.01)

    return wait
