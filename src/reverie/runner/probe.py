"""The questions that the supervisor asks its engine, over the Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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


class LifeCheck:
    """Asks an engine now and then whether it lives.

    An engine answers this beside its work, however much of that it has.

    Args:
        interval: seconds between two questions.
        misses: questions in a row that get no answer from an engine that hangs.
    """

    def __init__(self, socket: Path, *, interval: float, misses: int) -> None:
        self._socket = socket
        self._interval = interval
        self._misses = misses
        self._asking: asyncio.Task[bool] | None = None
        self._condemned = asyncio.Event()

    async def wait_silent(self) -> None:
        """Returns once the engine hangs."""
        missed = 0
        while missed < self._misses:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._condemned.wait()
                    return
            missed = 0 if await self._ask() else missed + 1

    async def doubt(self) -> bool:
        """Ask at once, since the engine's work stands still; gives whether it lives.

        One question without an answer is enough now. Who asks meanwhile joins in.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, asking: asyncio.Task[bool]) -> None:
        self._asking = None
        if not asking.cancelled() and not asking.result():
            self._condemned.set()

    async def _ask(self) -> bool:
        """Whether the engine answers; it is believed to if it can't be asked."""
        status, _ = await _get(self._socket, "/health")
        return bool(status)


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


_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What is lacking here then, and says nothing of the engine."""
_UNASKED = -1


async def _get(socket: Path, path: str) -> tuple[int, bytes]:
    """Status and body of an answer; 0: there was none; ``_UNASKED``: it couldn't be asked."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except OSError as error:  # TimeoutError, too
        return (_UNASKED if error.errno in _LACKING else 0), b""
    parts = head.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0), body
