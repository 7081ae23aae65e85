"""Looks after a server that others run: asks it, now and then, whether it is there.

Rule: a probe costs the server nothing and carries nothing of a request. SGLang's ``/health`` may
generate a token; its list of models doesn't.
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
from reverie.errors import BackendError, BackendTimeout
from reverie.settings import AnyKind

_HEALTHY_PACE = 15.0
_UNHEALTHY_PACE = 5.0
_HASTY_PACE = 0.5
_TIMEOUT = 5.0
_SPREAD = 0.2
"""The part of a pace by which it is varied, so that gateways don't ask in step."""

_HEALTH = "/health"
_MODELS = "models"
_PATHS: dict[AnyKind, str] = {"llamacpp": _HEALTH, "vllm": _HEALTH, "livepeer": _HEALTH}
_BAD_GATEWAY = frozenset({502, 503, 504})
"""What a proxy says of a server that isn't there, and llama.cpp while it loads."""


class Prober:
    """Asks one server until it is stopped.

    Args:
        on_result: called in the event loop after each probe.
        healthy_pace, unhealthy_pace, hasty_pace: seconds between two probes, more or less; the
            last while somebody has reason to ask.
        timeout: seconds for an answer.
    """

    def __init__(
        self,
        transport: Transport,
        kind: AnyKind,
        on_result: Callable[[Health], None],
        *,
        healthy_pace: float = _HEALTHY_PACE,
        unhealthy_pace: float = _UNHEALTHY_PACE,
        hasty_pace: float = _HASTY_PACE,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._transport = transport
        self._path = _PATHS.get(kind, _MODELS)
        self._tells_kind = kind == "auto"
        self._on_result = on_result
        self._healthy_pace = healthy_pace
        self._unhealthy_pace = unhealthy_pace
        self._hasty_pace = hasty_pace
        self._timeout = timeout
        self._suspected = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def suspect(self) -> None:
        """Make the next probe soon: a request failed there, or has no other server left."""
        self._suspected.set()

    async def stop(self) -> None:
        """Idempotent."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            self._suspected.clear()
            health = await self._look()
            self._on_result(health)
            pace = self._healthy_pace if health.good else self._unhealthy_pace
            spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)
            await asyncio.sleep(self._hasty_pace * spread)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((pace - self._hasty_pace) * spread):
                    await self._suspected.wait()

    async def _look(self) -> Health:
        """One probe. A server that tells what it is, is asked what its kind is asked as well:
        llama.cpp has its list of models ready before the model.
        """
        health = await probe(self._transport, self._path, self._timeout)
        page = _PATHS.get(kinds.made_by(health.maker)) if self._tells_kind else None
        if page is None:
            return health
        found = await probe(self._transport, page, self._timeout)
        return msgspec.structs.replace(found, maker=health.maker)


async def probe(transport: Transport, path: str, timeout: float) -> Health:
    """Ask once. Any answer but a proxy's shows that the server lives, be it a refusal."""
    began = time.monotonic()
    code, slow, maker = "", False, ""
    try:
        status, page = await transport.ask(path, timeout)
        if path == _MODELS and status == 200:
            maker = _maker(page)
        if status in _BAD_GATEWAY or (path == _HEALTH and status >= 500):
            code = BackendError.code
    except BackendError as error:
        code, slow = error.code, isinstance(error, BackendTimeout)
    took = time.monotonic() - began
    return Health(not code, at=time.time(), took=took, code=code, maker=maker, slow=slow)


class _Model(Struct):
    owned_by: str = ""


class _Models(Struct):
    data: list[_Model] = []


def _maker(page: bytes) -> str:
    """Whose the first of a list of models is, in OpenAI's shape; empty: it doesn't say."""
    try:
        models = msgspec.json.decode(page, type=_Models).data
    except msgspec.DecodeError:
        return ""
    return models[0].owned_by if models else ""
