"""The servers that are measured, each a process on CPUs of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cpus import ALL_CPUS, LOAD_CPUS, SERVER_CPUS, on_cpus
from wire import CHAT, request

_HERE = Path(__file__).parent
_REVERIE = Path(sys.executable).with_name("reverie")
_START_SECONDS = 120
_SLOTS = 8192


class Target(NamedTuple):
    """A server under load, and the keys of its callers."""

    name: str
    url: str
    pid: int
    secrets: Sequence[str | None]

    def requests(self, body: dict[str, Any], path: str = CHAT, count: int = 0) -> list[bytes]:
        """A request for each caller, or ``count`` of them by all callers in turn."""
        each = [request(body, path=path, secret=secret) for secret in self.secrets]
        return [each[number % len(each)] for number in range(count or len(each))]


@contextlib.asynccontextmanager
async def run(
    *command: str | Path,
    cpus: frozenset[int] = SERVER_CPUS,
    says: str = "",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[int, str]]:
    """Run a command; give its process's number and the line in which it says that it is ready."""
    with on_cpus(cpus):
        running = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "REVERIE_API_KEYS": "", **(env or {})},
        )  # fmt: skip
    assert running.stdout is not None
    line = ""
    try:
        while says and says not in line:
            line = (await running.stdout.readline()).decode()
            if not line:
                raise RuntimeError(f"{command[0]} ended before it was ready")
        reading = asyncio.create_task(running.stdout.read())  # or it would block when it is full
        yield running.pid, line.strip()
        reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await running.wait()
        except TimeoutError:
            running.kill()
            await running.wait()


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[Target]:
    """Run the engine that costs next to nothing, beside the load."""
    command = (sys.executable, str(_HERE / "engine.py"))
    async with run(*command, cpus=LOAD_CPUS, says="http://") as (pid, url):
        yield Target("the engine itself", url, pid, [None])


@contextlib.asynccontextmanager
async def reverie(
    config: str, folder: Path, *, name: str = "Reverie", callers: Sequence[str | None] = (None,),
    cpus: frozenset[int] = SERVER_CPUS, program: Sequence[str] = (), **environ: str,
) -> AsyncIterator[Target]:  # fmt: skip
    """Run ``reverie serve`` with a configuration; ``program`` in place of ``reverie``."""
    folder.mkdir(exist_ok=True)
    file = folder / "reverie.toml"
    file.write_text(config)
    command = (*(program or [str(_REVERIE)]), "serve", "--port", "0", "--config", str(file))
    env = {"XDG_STATE_HOME": str(folder), **environ}
    async with run(*command, cpus=cpus, says=" at http://", env=env) as (pid, line):
        yield Target(name, line.rsplit(" at ", 1)[1], pid, callers)


@contextlib.asynccontextmanager
async def default_reverie(*arguments: str) -> AsyncIterator[Target]:
    """Run ``reverie serve`` as it is, on all CPUs: the default model, and a store of its own."""
    command = (str(_REVERIE), "serve", "--port", "0", *arguments)
    with tempfile.TemporaryDirectory() as state:
        env = {"XDG_STATE_HOME": state}
        async with run(*command, cpus=ALL_CPUS, says=" at http://", env=env) as (pid, line):
            yield Target("Reverie", line.rsplit(" at ", 1)[1], pid, [None])


def config(engine_url: str, store: str, *, models: int = 1, backends: int = 1) -> str:
    """Models with a price, each served by so many backends, all of which are one engine.

    The load asks for the first, ``m``. Backends have paths of their own, which the engine ignores.
    """
    lines = ["[server]", "ollama = true", "[store]", f'url = "{store}"']
    for model in range(models):
        name = "m" if model == 0 else f"m{model}"
        lines += [
            "[[models]]", f'name = "{name}"',
            'price = { input = "0.18USD", output = "0.18USD" }',
        ]  # fmt: skip
        for backend in range(backends):
            path = "/v1" if backend == 0 else f"/{backend}/v1"
            lines += ["[[models.backends]]", f'url = "{engine_url}{path}"', f"slots = {_SLOTS}"]
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def litellm(program: Path, engine_url: str, folder: Path) -> AsyncIterator[Target]:
    """Run LiteLLM's proxy in front of an engine: one worker, no database, one key for all."""
    models = [litellm_model("m", f"{engine_url}/v1")]
    async with litellm_proxy(program, {"model_list": models}, folder) as target:
        yield target


def litellm_model(name: str, url: str) -> dict[str, Any]:
    """An entry of ``model_list``: an engine's model ``m`` under a name."""
    engine = {"model": "openai/m", "api_base": url, "api_key": "none"}
    return {"model_name": name, "litellm_params": engine}


@contextlib.asynccontextmanager
async def litellm_proxy(
    program: Path, config: Mapping[str, Any], folder: Path
) -> AsyncIterator[Target]:
    """Run LiteLLM's proxy with a configuration: one worker, no database, one key for all."""
    secret = f"sk-{secrets.token_hex(32)}"  # it doesn't start without one
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # which is YAML, too
    port = free_port()
    command = (
        program, "--config", file, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1",
    )  # fmt: skip
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": secret,
    }
    async with run(*command, env=env) as (pid, _):
        await listening(pid, port)
        yield Target("LiteLLM", f"http://127.0.0.1:{port}", pid, [secret])


@contextlib.asynccontextmanager
async def vllm_router(program: Path, engine_url: str, _folder: Path) -> AsyncIterator[Target]:
    """Run vLLM's router in front of an engine."""
    port = free_port()
    command = (
        program, "--worker-urls", engine_url, "--host", "127.0.0.1", "--port", str(port),
        "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port()),
        "--max-concurrent-requests", str(_SLOTS),
    )  # fmt: skip
    async with run(*command) as (pid, _):
        await listening(pid, port)
        yield Target("vllm-router", f"http://127.0.0.1:{port}", pid, [None])


_NGINX = """\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    upstream engine {{ server {engine}; keepalive 64; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def nginx(program: Path, engine_url: str, folder: Path) -> AsyncIterator[Target]:
    """Run nginx in front of an engine: one worker, nothing held back, no log."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(
        _NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            engine=engine_url.removeprefix("http://"),
            port=port,
        )
    )
    async with run(program, "-c", file, "-e", "stderr") as (pid, _):
        await listening(pid, port)
        yield Target("nginx", f"http://127.0.0.1:{port}", pid, [None])


@contextlib.asynccontextmanager
async def floor(name: str, program: str, engine_url: str) -> AsyncIterator[Target]:
    """Run one of the programs in Python that hand bytes on, in front of an engine."""
    port = free_port()
    command = (sys.executable, _HERE / program, "--engine", engine_url, "--port", str(port))
    async with run(*command) as (pid, _):
        await listening(pid, port)
        yield Target(name, f"http://127.0.0.1:{port}", pid, [None])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def listening(pid: int, port: int) -> None:
    """Wait until a process listens on a port."""
    async with asyncio.timeout(_START_SECONDS):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if not Path(f"/proc/{pid}").exists():
                raise RuntimeError("it ended before it listened")
            await asyncio.sleep(0.2)
