"""The questions that the supervisor asks its engine, over the Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

_INTERVAL = 0.02
"""Seconds between two questions while the engine loads."""
_TIMEOUT = 5.0
"""Seconds for one answer; an engine that is loading a model may be slow to accept."""


async def wait_healthy(socket: Path) -> None:
    """Wait until the engine says that it can serve, for ever if need be."""
    while True:
        status, _ = await _get(socket, "/health")
        if status == 200:
            return
        await asyncio.sleep(_INTERVAL)


async def wait_silent(socket: Path, *, interval: float, misses: int) -> None:
    """Ask every ``interval`` seconds; returns once ``misses`` questions in a row got no answer.

    An engine answers this beside its work, however much of that it has.
    """
    missed = 0
    while missed < misses:
        await asyncio.sleep(interval)
        status, _ = await _get(socket, "/health")
        missed = 0 if status else missed + 1


async def slot_context(socket: Path) -> int | None:
    """Tokens that one request may use, or None if the engine doesn't say."""
    status, body = await _get(socket, "/props")
    if status != 200:
        return None
    try:
        context = msgspec.json.decode(body)["default_generation_settings"]["n_ctx"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
    return context if isinstance(context, int) and context > 0 else None


async def _get(socket: Path, path: str) -> tuple[int, bytes]:
    """Status and body of an answer; status 0 if there was none."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    parts = head.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0), body
