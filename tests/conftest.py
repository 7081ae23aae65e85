"""A whole Reverie, in this process, on a free port, over scripted engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from reverie.app import Application
from reverie.server import Server, listen
from reverie.settings import Settings
from reverie.testing import Script, ScriptedEngine


class Gateway:
    """A running server and a client of it."""

    def __init__(self, app: Application, server: Server, url: str) -> None:
        self.app = app
        self.server = server
        self.url = url
        self.http: aiohttp.ClientSession

    def pool(self, model: str = "m") -> Any:
        return self.app.models.find(model).pool

    async def post(
        self, body: Any, path: str = "/llm", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """POST a JSON body (or raw bytes); give the status, the parsed answer, the headers."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, headers=headers, **sent) as response:
            return response.status, await response.json(), response.headers

    async def get(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        async with self.http.get(self.url + path, headers=headers) as response:
            is_json = response.content_type == "application/json"
            body = await response.json() if is_json else await response.text()
            return response.status, body, response.headers

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition inside the server."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


StartGateway = Callable[..., Awaitable[Gateway]]


def chat(text: str = "Hi", **more: Any) -> dict[str, Any]:
    """A request body."""
    return {"messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def start_gateway() -> AsyncIterator[StartGateway]:
    """Start servers: ``await start_gateway(engine, …, server={…}, environ={…}, models=[…])``."""
    async with AsyncExitStack() as stack:

        async def start(
            *engines: ScriptedEngine,
            server: Mapping[str, Any] | None = None,
            environ: Mapping[str, str] | None = None,
            models: list[dict[str, Any]] | None = None,
            backend: Mapping[str, Any] | None = None,
        ) -> Gateway:
            backends = [{"url": engine.url, **(backend or {})} for engine in engines]
            settings = Settings.model_validate(
                {
                    "server": {"port": 0, **(server or {})},
                    "models": models or [{"name": "m", "aliases": ["alias"], "backends": backends}],
                }
            )
            app = Application(settings, environ=environ or {})
            listener = listen(settings.server.host, settings.server.port)
            await app.start()
            serving = Server(app, on_ready=lambda: None)
            task = asyncio.create_task(serving.run_on(listener))

            async def stop() -> None:
                serving.stop()
                serving.stop()
                await task
                listener.close()

            stack.push_async_callback(stop)
            gateway = Gateway(app, serving, f"http://127.0.0.1:{listener.getsockname()[1]}")
            gateway.http = await stack.enter_async_context(aiohttp.ClientSession())
            await gateway.until(lambda: serving.started)
            return gateway

        yield start


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine(Script(tokens=("Hello", " world"))) as scripted:
        yield scripted


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine)
