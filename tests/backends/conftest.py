"""Requests, backends over scripted engines, and their answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from reverie.backends.http import HttpBackend
from reverie.events import Delta, Event
from reverie.request import GenerateRequest
from reverie.settings import BackendSettings
from tests.backends.peers import Handler, Peers, Serve

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What is known of sockets here holds on both loops; the second is the one in production."""
    return LOOPS


StartBackend = Callable[..., Awaitable[HttpBackend]]


def ask(**fields: Any) -> GenerateRequest:
    """A request for a stream, whose pieces come as they were sent, however they were read."""
    messages = [{"role": "user", "content": "Hi"}]
    return GenerateRequest(**{"model": "m", "messages": messages, "stream": True, **fields})


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def apart(events: Iterable[Event]) -> list[Event]:
    """The events with each piece of text alone. Which come together is chance."""
    single: list[Event] = []
    for event in events:
        pieces = event.pieces if isinstance(event, Delta) else ()
        single += map(Delta, pieces) if pieces else [event]
    return single


@pytest.fixture(name="ask")
def _ask() -> Callable[..., GenerateRequest]:
    return ask


@pytest.fixture
def collect() -> Callable[..., Awaitable[list[Event]]]:
    """``await collect(backend, …)``: the events of one generation, whose batches are sound."""

    async def collect(backend: HttpBackend, **fields: Any) -> list[Event]:
        batches: list[list[Event]] = []
        await backend.generate(ask(**fields), batches.append)
        assert all(batches), "no batch is empty"
        return apart(event for batch in batches for event in batch)

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


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(handler)``: a server that handles each connection so."""
    async with AsyncExitStack() as stack:

        async def start(
            handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
        ) -> Peers:
            peers = Peers(handler)
            server = await asyncio.start_server(peers.serve, host, 0, ssl=tls)
            stack.callback(server.close)
            peers.port = server.sockets[0].getsockname()[1]
            scheme = "http" if tls is None else "https"
            peers.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{peers.port}/v1"
            stack.push_async_callback(peers.wait_for_open, 0)
            return peers

        yield start
