"""The least that a gateway in Python can be: an ASGI app that hands bytes on, with aiohttp.

No keys, no ledger, no check of what it is asked, no failover. Uvicorn serves it on uvloop and
httptools. What a gateway costs above this is what it does.
"""

from __future__ import annotations

import argparse
from typing import Any

import aiohttp
import uvicorn


class Relay:
    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {"content-type": "application/json"}
        url = self._engine + scope["path"]
        async with self._session.post(url, data=body, headers=headers) as response:
            kept = [
                (name.lower().encode(), value.encode())
                for name, value in response.headers.items()
                if name.lower() in ("content-type", "content-length")
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            async for data in response.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True, help="the engine's URL")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(
        Relay(given.engine),
        port=given.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
