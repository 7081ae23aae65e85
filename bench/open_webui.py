"""Open WebUI in front of Reverie: what it asks for, and whether it gets it.

    pip install open-webui                      # 7 GB, in an environment of its own
    python bench/open_webui.py PATH/OF/open-webui [--record FILE]

Starts the scripted engine, Reverie before it, and Open WebUI with nothing set but Reverie's address
and a key. Asks Open WebUI's own API for its models, for an answer, whole and streamed, and for what
its page wants besides: a title, tags, questions to go on with. With ``--record`` it writes every
request that Open WebUI sent; ``tests/contract/test_open_webui.py`` sends them again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from reverie.testing import Script, ScriptedEngine

KEY = "the-key-of-open-webui"
MODEL = "smollm2-135m"
CONFIGURATION = """
[server]
port = 0
[store]
url = "none"
[[models]]
name = "{model}"
[[models.backends]]
url = "{url}"
"""


class Recorder:
    """Passes requests on to Reverie, answers back, and keeps the requests."""

    def __init__(self, session: aiohttp.ClientSession, to: str) -> None:
        self._session = session
        self._to = to
        self.requests: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(
            {
                "method": request.method,
                "path": request.path_qs,
                "headers": _worth_keeping(request),
                "body": json.loads(body) if body else None,
            }
        )
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        async with self._session.request(
            request.method, self._to + request.path_qs, data=body, headers=headers
        ) as answer:
            kept = {"Content-Type": answer.headers["Content-Type"]}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            await passed.prepare(request)
            async for piece in answer.content.iter_any():
                await passed.write(piece)
            await passed.write_eof()
            return passed


def _worth_keeping(request: web.Request) -> dict[str, str]:
    left_out = {"host", "content-length", "connection", "authorization"}
    return {k: v for k, v in request.headers.items() if k.lower() not in left_out}


async def _reverie(folder: Path, engine: str) -> tuple[asyncio.subprocess.Process, str]:
    (folder / "reverie.toml").write_text(CONFIGURATION.format(model=MODEL, url=engine))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverie", "serve"),
        cwd=folder,
        env={**os.environ, "REVERIE_API_KEYS": KEY, "XDG_STATE_HOME": str(folder / "state")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    printed = ""
    while "Stop: Ctrl-C" not in printed:
        printed += (await process.stdout.readline()).decode()
    found = re.search(r"http://[\d.]+:\d+", printed)
    assert found is not None, printed
    return process, found.group()


async def _open_webui(
    command: Path, folder: Path, url: str, server: str
) -> asyncio.subprocess.Process:
    """Start it at ``url``, with the server that it is to ask."""
    port = url.rsplit(":", 1)[1]
    return await asyncio.create_subprocess_exec(
        *(command.absolute(), "serve", "--host", "127.0.0.1", "--port", port),
        cwd=folder,
        env={
            **os.environ,
            "DATA_DIR": str(folder),
            "WEBUI_AUTH": "False",  # one user, who needs no password
            "WEBUI_SECRET_KEY": "any",
            "OFFLINE_MODE": "True",
            "HF_HUB_OFFLINE": "1",
            "RAG_EMBEDDING_ENGINE": "openai",  # or it wants a model of its own from the hub
            "ENABLE_OLLAMA_API": "False",
            "OPENAI_API_BASE_URL": server,
            "OPENAI_API_KEY": KEY,
        },
        stdout=(folder / "open-webui.log").open("wb"),
        stderr=asyncio.subprocess.STDOUT,
    )


async def _until_up(session: aiohttp.ClientSession, url: str, log: Path) -> None:
    for _ in range(1800):
        try:
            async with session.get(f"{url}/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit(f"Open WebUI doesn't start:\n{log.read_text()[-3000:]}")


async def _ask(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(
        f"{url}/api/v1/auths/signin", json={"email": "", "password": ""}
    ) as answer:
        token = (await answer.json())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with session.get(f"{url}/api/models", headers=headers) as answer:
        models = [model["id"] for model in (await answer.json())["data"]]
    print("models:", models)
    assert MODEL in models
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    for stream in (False, True):
        async with session.post(
            f"{url}/api/chat/completions", headers=headers, json={**body, "stream": stream}
        ) as answer:
            text = await answer.text()
        print(f"stream={stream}:", answer.status, text[:300])
        assert answer.status == 200
        assert "Hello" in text
    for task in ("title", "tags", "follow_up"):  # what its page asks for after an answer
        async with session.post(
            f"{url}/api/v1/tasks/{task}/completions", headers=headers, json=body
        ) as answer:
            print(f"{task}:", answer.status, (await answer.text())[:300])
            assert answer.status == 200


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def run(command: Path, record: Path | None) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with (
            ScriptedEngine(Script(tokens=("Hello", " world"))) as engine,
            aiohttp.ClientSession() as session,
        ):
            reverie, address = await _reverie(folder, engine.url)
            recorder = Recorder(session, address)
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", recorder.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            recorded = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            url = f"http://127.0.0.1:{_free_port()}"
            began = time.monotonic()
            webui = await _open_webui(command, folder, url, recorded)
            try:
                await _until_up(session, url, folder / "open-webui.log")
                print(f"Open WebUI was up after {time.monotonic() - began:.0f} s")
                await _ask(session, url)
            finally:
                for process in (webui, reverie):
                    process.terminate()
                    await process.wait()
                await runner.cleanup()
    for request in recorder.requests:
        print(json.dumps(request))
    if record is not None:
        record.write_text(json.dumps(recorder.requests, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", type=Path)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    asyncio.run(run(given.command, given.record))
