"""Requests, backends over scripted engines, and their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reverie.backends.http import HttpBackend
from reverie.events import Delta, Event
from reverie.request import GenerateRequest
from reverie.settings import BackendSettings

StartBackend = Callable[..., Awaitable[HttpBackend]]


def ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        **{"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    )


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture(name="ask")
def _ask() -> Callable[..., GenerateRequest]:
    return ask


@pytest.fixture
def collect() -> Callable[..., Awaitable[list[Event]]]:
    """``await collect(backend, …)``: the events of one generation, whose batches are sound."""

    async def collect(backend: HttpBackend, **fields: Any) -> list[Event]:
        batches = [batch async for batch in backend.generate(ask(**fields))]
        assert all(batches), "no batch is empty"
        return [event for batch in batches for event in batch]

    return collect


@pytest.fixture
async def start_backend() -> AsyncIterator[StartBackend]:
    """``await start_backend(url, kind=…, first_token_timeout=…)``: a started backend."""
    async with AsyncExitStack() as stack:

        async def start(url: str, **options: Any) -> HttpBackend:
            limits = {
                "first_token_timeout": options.pop("first_token_timeout", 10.0),
                "stall_timeout": options.pop("stall_timeout", 10.0),
            }
            backend = HttpBackend("b", BackendSettings(url=url, **options), model="up", **limits)
            stack.push_async_callback(backend.stop)
            await backend.start(lambda: None)
            return backend

        yield start
