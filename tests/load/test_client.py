"""A request reaches the server with its key, on a kept connection; each failure has its name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reverie.load.client import Client
from reverie.testing import Script, ScriptedEngine

pytestmark = pytest.mark.integration

BODY = b'{"messages":[{"role":"user","content":"Hi"}],"stream":true,"model":"m"}'


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine(Script(tokens=("a", "b", "c"))) as running:
        yield running


@pytest.fixture
async def new() -> AsyncIterator[Callable[..., Client]]:
    clients: list[Client] = []

    def client(url: str, timeout: float = 5.0, **headers: str) -> Client:
        clients.append(Client(url, headers=headers, timeout=timeout))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/"])
async def test_the_url_may_end_with_v1(
    engine: ScriptedEngine, new: Callable[..., Client], base: str
) -> None:
    client = new(engine.url.removesuffix("/v1") + base, Authorization="Bearer secret")
    outcome = await client.ask(BODY, stream=True)
    assert (outcome.failure, outcome.tokens, len(outcome.gaps)) == (None, 3, 2)
    assert 0 < outcome.ttft <= outcome.latency
    assert engine.requests[0].headers["authorization"] == "Bearer secret"


async def test_connections_are_used_again(
    engine: ScriptedEngine, new: Callable[..., Client]
) -> None:
    client = new(engine.url)
    for _ in range(3):
        assert (await client.ask(BODY, stream=True)).failure is None
    assert engine.connections == 1


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(
    engine: ScriptedEngine, new: Callable[..., Client]
) -> None:
    client = new(engine.url)
    engine.script = Script(keep_alive=False)
    for _ in range(3):
        assert (await client.ask(BODY, stream=True)).failure is None


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (Script(status=503), "status 503"),
        (Script(tokens=("a", "b"), die_after=1), "the connection broke"),
        (Script(tokens=("a", "b"), die_after=1, die_how="end"), "the answer broke off"),
        (Script(raw=b"nonsense\r\n\r\n"), "the answer isn't HTTP"),
        (Script(raw=b""), "the connection was closed unanswered"),
        (Script(stall_after=1), "no whole answer in 0.2 s"),
        (Script(tokens=()), "an answer without a token"),
    ],
)  # fmt: skip
async def test_failures_are_named(
    engine: ScriptedEngine, new: Callable[..., Client], script: Script, name: str
) -> None:
    engine.script = script
    outcome = await new(engine.url, timeout=0.2).ask(BODY, stream=True)
    assert outcome.failure is not None
    assert outcome.failure.name.startswith(name)


async def test_nobody_there_is_named(new: Callable[..., Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    failure = (await new(url).ask(BODY, stream=True)).failure
    assert failure is not None
    assert (failure.name, failure.sentence) == ("can't connect", "Connection refused")


async def test_a_unix_socket_can_be_asked(tmp_path: Path) -> None:
    async with ScriptedEngine(socket=tmp_path / "engine") as engine:
        client = Client(engine.url, headers={}, timeout=5.0)
        assert (await client.ask(BODY, stream=True)).failure is None
        client.close()


async def test_a_request_that_is_cancelled_leaves_no_connection(
    engine: ScriptedEngine, new: Callable[..., Client]
) -> None:
    engine.script = Script(stall_after=1)
    asking = asyncio.ensure_future(new(engine.url).ask(BODY, stream=True))
    await engine.wait_for(lambda engine: engine.stalled)
    asking.cancel()
    await engine.wait_for(lambda engine: not engine.connections)


def test_a_header_of_several_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="plain text"):
        Client("http://127.0.0.1", headers={"X": "a\r\nY: b"}, timeout=1.0)
