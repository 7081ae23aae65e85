"""``reverie serve --workers N`` as processes, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.cli.test_serve import Serving, children, serving

ADMIN_KEY = "an-admin-key-of-24-letters"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


def _is_worker(pid: int) -> bool:
    try:
        return b"reverie.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


class Workers:
    """A running server with workers, and a client whose every request is a new connection."""

    def __init__(self, server: Serving, folder: Path, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.folder = folder
        self.http = http
        self.url = ""

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        return [pid for pid in children(self.server.process.pid) if _is_worker(pid)]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until it is true; gives what it gave."""
        async with asyncio.timeout(30):
            while not (value := condition()):
                assert self.server.process.poll() is None, self.server.log
                await asyncio.sleep(0.02)
        return value

    async def post(self, path: str = "/llm", **body: Any) -> tuple[int, Any]:
        async with self.http.post(self.url + path, json={**BODY, **body}) as response:
            return response.status, await response.json()

    async def stream(self, *, pieces: list[str] | None = None, **headers: str) -> str:
        """The text of a streamed answer; ``cut`` at its end if it broke off.

        Args:
            pieces: gets each piece of text as it comes.
        """
        body = {**BODY, "stream": True}
        text = ""
        try:
            async with self.http.post(f"{self.url}/llm", json=body, headers=headers) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        delta = json.loads(line[6:])["choices"][0]["delta"]
                        piece = delta.get("content") or ""
                        text += piece
                        if pieces is not None and piece:
                            pieces.append(piece)
        except aiohttp.ClientError:
            text += "cut"
        return text

    async def admin(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        url = f"{self.url}/admin/v1/{path}"
        sent = body or None
        async with self.http.request(method, url, json=sent, headers=headers) as response:
            return response.status, await response.json()

    async def metrics(self) -> dict[str, float]:
        """The samples of ``/metrics``, by name and labels as they are written."""
        async with self.http.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def write(self, text: str) -> None:
        (self.folder / "reverie.toml").write_text(text)


def config(url: str, *, slots: int = 4, more: str = "", server: str = "") -> str:
    return (
        f'[server]\n{server}\n[[models]]\nname = "m"\n{more}\n'
        f'[[models.backends]]\nurl = "{url}"\nslots = {slots}\n'
    )


@asynccontextmanager
async def workers(folder: Path, text: str, count: int = 2) -> AsyncIterator[Workers]:
    (folder / "reverie.toml").write_text(text)
    os.environ["REVERIE_ADMIN_KEY"] = ADMIN_KEY
    try:
        with serving(folder, ["--workers", str(count)], start_new_session=True) as server:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            async with aiohttp.ClientSession(connector=connector) as http:
                running = Workers(server, folder, http)
                await running.until(lambda: server.lines("listening"))
                running.url = server.url
                yield running
                if server.process.poll() is None:
                    server.process.send_signal(signal.SIGKILL)
    finally:
        del os.environ["REVERIE_ADMIN_KEY"]
