"""The questions that the supervisor asks its engine."""

from __future__ import annotations

import asyncio
import contextlib
import errno

import msgspec

from reverie.runner.endpoint import Endpoint

_INTERVAL = 0.02
"""Seconds between two questions while the engine loads."""
_TIMEOUT = 5.0
"""Seconds for one answer; an engine that is loading a model may be slow to accept."""


async def wait_healthy(endpoint: Endpoint) -> None:
    """Wait, without a deadline, until the engine reports that it can serve."""
    while True:
        status, _ = await _get(endpoint, "/health")
        if status == 200:
            return
        await asyncio.sleep(_INTERVAL)


class LivenessProbe:
    """Asks an engine periodically whether it is alive.

    An engine answers probes while it works, however busy it is.

    Args:
        interval: seconds between two probes.
        failure_threshold: this many unanswered probes in a row mean that the engine hangs.
    """

    def __init__(self, endpoint: Endpoint, *, interval: float, failure_threshold: int) -> None:
        self._endpoint = endpoint
        self._interval = interval
        self._failure_threshold = failure_threshold
        self._probing: asyncio.Task[bool] | None = None
        self.hung = asyncio.Event()
        """Set once it hangs."""

    async def watch(self) -> None:
        """Probe until the engine hangs."""
        failures = 0
        while failures < self._failure_threshold:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self.hung.wait()
                    return
            failures = 0 if await self._probe() else failures + 1
        self.hung.set()

    async def probe_now(self) -> bool:
        """Probe at once, because a request makes no progress; True if the engine is alive.

        Here a single unanswered probe means that it hangs. Concurrent calls share one probe.
        """
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
            self._probing.add_done_callback(self._probed)
        return await asyncio.shield(self._probing)

    def _probed(self, probing: asyncio.Task[bool]) -> None:
        self._probing = None
        if not probing.cancelled() and not probing.result():
            self.hung.set()

    async def _probe(self) -> bool:
        """True if the engine answers, or if this process lacks the descriptors or memory to ask."""
        status, _ = await _get(self._endpoint, "/health")
        return bool(status)


async def slot_context(endpoint: Endpoint) -> int | None:
    """Tokens that one request may use; None if the engine doesn't say."""
    key = endpoint.key()
    status, body = await _get(endpoint, "/props", key)
    if status != 200:
        return None
    try:
        context = msgspec.json.decode(body)["default_generation_settings"]["n_ctx"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
    return context if isinstance(context, int) and context > 0 else None


_LOCAL_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This process lacks something then, which tells nothing about the engine."""
_NOT_ASKED = -1


async def _get(endpoint: Endpoint, path: str, key: str = "") -> tuple[int, bytes]:
    """Status and body of an answer. Status 0: no answer; ``_NOT_ASKED``: ``_LOCAL_SHORTAGE``."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await _connect(endpoint)
            try:
                head = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
                head += f"Authorization: Bearer {key}\r\n" if key else ""
                writer.write(f"{head}\r\n".encode())
                answered, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except OSError as error:  # TimeoutError, too
        return (_NOT_ASKED if error.errno in _LOCAL_SHORTAGE else 0), b""
    parts = answered.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0), body


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.port:
        return await asyncio.open_connection(endpoint.host, endpoint.port)
    return await asyncio.open_unix_connection(endpoint.host)
