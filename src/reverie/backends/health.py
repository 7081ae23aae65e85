"""Checks the health of a server that others run, by periodic probes.

Rule: a probe costs the server next to nothing and carries nothing of a request. SGLang's
``/health`` may generate a token; its list of models doesn't.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from reverie.backends.base import Health
from reverie.backends.encoding import kinds
from reverie.backends.transport import Transport
from reverie.background import Loop
from reverie.errors import BackendError, BackendTimeout
from reverie.settings import AnyKind

_HEALTHY_INTERVAL = 15.0
_UNHEALTHY_INTERVAL = 5.0
_MIN_INTERVAL = 0.5
_TIMEOUT = 5.0
_JITTER = 0.2
"""The part by which an interval is varied, so that gateways don't probe in step."""

_HEALTH = "/health"
_MODELS = "models"
_PATHS: dict[AnyKind, str] = {"llamacpp": _HEALTH, "vllm": _HEALTH, "livepeer": _HEALTH}
_UNAVAILABLE = frozenset({502, 503, 504})
"""What a proxy answers for a server that isn't there, and llama.cpp while it loads."""


class HealthMonitor:
    """Probes one server until it is stopped.

    Args:
        on_result: called in the event loop after each probe.
        healthy_interval, unhealthy_interval: seconds between two probes, more or less.
        min_interval: seconds until the next probe at the soonest.
        timeout: seconds for an answer.
    """

    def __init__(
        self,
        transport: Transport,
        kind: AnyKind,
        on_result: Callable[[Health], None],
        *,
        healthy_interval: float = _HEALTHY_INTERVAL,
        unhealthy_interval: float = _UNHEALTHY_INTERVAL,
        min_interval: float = _MIN_INTERVAL,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._transport = transport
        self._path = _PATHS.get(kind, _MODELS)
        self._detects_kind = kind == "auto"
        self._on_result = on_result
        self._healthy_interval = healthy_interval
        self._unhealthy_interval = unhealthy_interval
        self._min_interval = min_interval
        self._timeout = timeout
        self._wanted_soon = asyncio.Event()
        self._loop = Loop("health probes", self._run)

    def probe_soon(self) -> None:
        """Don't wait for the whole interval before the next probe."""
        self._wanted_soon.set()

    async def stop(self) -> None:
        """Idempotent."""
        await self._loop.stop()

    async def _run(self) -> None:
        while True:
            self._wanted_soon.clear()
            health = await self._probe()
            self._on_result(health)
            interval = self._healthy_interval if health.ok else self._unhealthy_interval
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)
            await asyncio.sleep(self._min_interval * jitter)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((interval - self._min_interval) * jitter):
                    await self._wanted_soon.wait()

    async def _probe(self) -> Health:
        """Probe once. A server whose list of models tells its kind gets that kind's probe as well:
        llama.cpp serves the list before its model is loaded.
        """
        health = await probe(self._transport, self._path, self._timeout)
        path = _PATHS.get(kinds.kind_of(health.owned_by)) if self._detects_kind else None
        if path is None:
            return health
        found = await probe(self._transport, path, self._timeout)
        return msgspec.structs.replace(found, owned_by=health.owned_by)


async def probe(transport: Transport, path: str, timeout: float) -> Health:
    """Probe once. Any answer but a proxy's shows that the server lives, even a refusal."""
    began = time.monotonic()
    error_code, timed_out, owned_by = "", False, ""
    try:
        status, body = await transport.get(path, timeout)
        if path == _MODELS and status == 200:
            owned_by = _owner(body)
        if status in _UNAVAILABLE or (path == _HEALTH and status >= 500):
            error_code = BackendError.code
    except BackendError as error:
        error_code, timed_out = error.code, isinstance(error, BackendTimeout)
    return Health(
        ok=not error_code,
        checked_at=time.time(),
        duration=time.monotonic() - began,
        error_code=error_code,
        owned_by=owned_by,
        timed_out=timed_out,
    )


class _Model(Struct):
    owned_by: str = ""


class _Models(Struct):
    data: list[_Model] = []


def _owner(body: bytes) -> str:
    """``owned_by`` of the first model in OpenAI's list of models; empty if it has none."""
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except msgspec.DecodeError:
        return ""
    return models[0].owned_by if models else ""
