"""A running Reverie, and what tests ask of it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from reverie.app import Application
from reverie.server import Server
from reverie.settings import Settings, StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate


def store_of_servers(folder: Path) -> Iterator[Store]:
    """The store that servers share which ``start_gateway`` starts in this folder."""
    opened = Store(StoreSettings(url=f"sqlite:///{folder}/reverie.db"))
    migrate(opened)
    yield opened
    opened.close()


class Gateway:
    """A running server and a client of it."""

    def __init__(self, app: Application, server: Server, url: str) -> None:
        self.app = app
        self.server = server
        self.url = url
        self.http: aiohttp.ClientSession
        self.written: dict[str, Any] = {}
        """The configuration, which ``read`` reads."""
        self.read = lambda: Settings.model_validate(self.written)
        """What a reload reads the configuration with."""

    def pool(self, model: str = "m") -> Any:
        return self.app.models.find(model).pool

    async def post(
        self, body: Any, path: str = "/llm", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """POST a JSON body (or raw bytes); give the status, the parsed answer, the headers."""
        sent = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
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
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


StartGateway = Callable[..., Awaitable[Gateway]]


def chat(text: str = "Hi", **more: Any) -> dict[str, Any]:
    """A request body."""
    return {"messages": [{"role": "user", "content": text}], **more}
