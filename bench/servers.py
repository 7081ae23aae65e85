"""The servers that are measured, each a process on a core of its own choosing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import venv
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from load import question

SERVER_CORE, LOAD_CORE = 0, 1
_REVERIE = Path(sys.executable).with_name("reverie")
_START_SECONDS = 120


class Target(NamedTuple):
    """A server under load, and the keys of its callers."""

    url: str
    pid: int
    secrets: Sequence[str | None]

    def requests(self, *, stream: bool, tokens: int) -> list[bytes]:
        """A request for each caller."""
        return [question(stream=stream, tokens=tokens, secret=secret) for secret in self.secrets]


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Have processes that are started inside run on one core."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def _run(
    *command: str | Path, core: int, says: str = "", env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[int, str]]:
    """Run a command; give its process's number and the line in which it says that it is ready."""
    with on_core(core):
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
        await running.wait()


@contextlib.asynccontextmanager
async def engine(gap: float = 0.0) -> AsyncIterator[str]:
    """Run the engine, beside the load; give its base URL.

    Args:
        gap: seconds between two tokens of a long answer.
    """
    command = (sys.executable, Path(__file__).with_name("engine.py"), "--gap", str(gap))
    async with _run(*command, core=LOAD_CORE, says="http://") as (_, url):
        yield url


@contextlib.asynccontextmanager
async def reverie(
    engine: str, folder: Path, store: str, callers: Sequence[str | None], **environ: str
) -> AsyncIterator[Target]:
    """Run Reverie in front of an engine."""
    folder.mkdir(exist_ok=True)
    config = folder / "reverie.toml"
    config.write_text(
        f'[server]\nollama = true\n[store]\nurl = "{store}"\n[[models]]\nname = "m"\n'
        'price = { input = "0.18USD", output = "0.18USD" }\n'
        f'[[models.backends]]\nurl = "{engine}"\n'
    )
    command = (_REVERIE, "serve", "--port", "0", "--config", config)
    env = {"XDG_STATE_HOME": str(folder), **environ}
    async with _run(*command, core=SERVER_CORE, says=" at http://", env=env) as (pid, line):
        yield Target(line.rsplit(" at ", 1)[1], pid, callers)


@contextlib.asynccontextmanager
async def litellm(program: Path, engine: str, folder: Path, clients: int) -> AsyncIterator[Target]:
    """Run LiteLLM's proxy in front of an engine: one worker, no database, one key for all."""
    secret = f"sk-{secrets.token_hex(32)}"  # it doesn't start without one
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/m\n"
        f"      api_base: {engine}\n      api_key: none\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (program, "--config", config, "--host", "127.0.0.1", "--port", str(port))
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": secret,
    }
    async with _run(*command, core=SERVER_CORE, env=env) as (pid, _):
        target = Target(f"http://127.0.0.1:{port}", pid, [secret] * clients)
        async with asyncio.timeout(_START_SECONDS):
            while not _listens(port):
                if not Path(f"/proc/{pid}").exists():
                    raise RuntimeError("LiteLLM ended before it was ready")
                await asyncio.sleep(0.5)
        yield target


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def install_litellm(folder: Path) -> Path | None:
    """Install LiteLLM's proxy in an environment of its own; None if it can't be had."""
    await asyncio.to_thread(venv.create, folder, with_pip=True)
    installing = await asyncio.create_subprocess_exec(
        folder / "bin" / "python", "-m", "pip", "install", "--quiet", "litellm[proxy]",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return folder / "bin" / "litellm" if await installing.wait() == 0 else None
