"""This server as a live runner of a Livepeer orchestrator: what docs/livepeer.md promises."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from reverie.live_runners import Wishes, describe
from reverie.settings import Settings
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat
from tests.http.orchestrator import Orchestrator

LLM, OPENAI = "/llm", "/v1/chat/completions"
LABEL = "reverie-m"
OPEN = {"no_auth": True}
"""Settings of a server that serves everyone whom its orchestrator lets in."""
PAYMENT = {
    "Livepeer-Payment": "p4ym3nt-" * 500,
    "Livepeer-Segment": "s3gm3nt",
    "Livepeer-Payer-Address": "0xpayer",
}
"""What a caller who pays sends the orchestrator, which passes it on."""


class Route:
    """A runner's public URL at an orchestrator, and who calls it."""

    def __init__(self, orchestrator: Orchestrator, gateway: Gateway) -> None:
        self.orchestrator = orchestrator
        self._gateway = gateway

    def stream(self, path: str = LLM, body: Any = None, **headers: str) -> Any:
        return self._gateway.http.post(
            self.orchestrator.app_url(LABEL) + path,
            json=body or chat(stream=True),
            headers=headers or None,
        )

    async def call(
        self, path: str = LLM, body: Any = None, method: str = "POST", **headers: str
    ) -> tuple[int, str, Mapping[str, str]]:
        async with self._gateway.http.request(
            method,
            self.orchestrator.app_url(LABEL) + path,
            data=body if isinstance(body, bytes) else None,
            json=None if isinstance(body, bytes) or method == "GET" else body or chat(),
            headers=headers or None,
        ) as response:
            return response.status, await response.text(), response.headers


Register = Callable[[Gateway], Awaitable[Route]]


@pytest.fixture
async def register() -> AsyncIterator[Register]:
    """Start an orchestrator with what ``reverie check --live-runner`` writes for a server."""
    async with AsyncExitStack() as stack:

        async def start(gateway: Gateway) -> Route:
            settings = Settings.model_validate(gateway.written)
            wishes = Wishes(runner_url=gateway.url, price="0.002USD")
            config = describe(settings, wishes, keyless=gateway.app.keyless).json
            return Route(await stack.enter_async_context(Orchestrator(config)), gateway)

        yield start


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    """A server with two slots and no queue."""
    server = {**OPEN, "queue_size": 0}
    return await start_gateway(engine, server=server, backend={"slots": 2})


@pytest.fixture
async def route(gateway: Gateway, register: Register) -> Route:
    return await register(gateway)


async def test_both_apis_answer_under_the_runners_route(route: Route) -> None:
    for path in (LLM, OPENAI):
        status, text, headers = await route.call(path, **PAYMENT)
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == "Hello world"
        assert headers["Content-Type"] == "application/json"
    status, text, _ = await route.call("/v1/models", method="GET")
    assert (status, [one["id"] for one in json.loads(text)["data"]]) == (200, ["m", "alias"])


@pytest.mark.parametrize("path", [LLM, OPENAI])
async def test_a_stream_arrives_piece_by_piece(
    engine: ScriptedEngine, route: Route, path: str
) -> None:
    engine.script = Script(tokens=("first", "second"), stall_after=1)
    async with route.stream(path) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        head = await response.content.readuntil(b"first")
        assert engine.stalled == 1
        assert b"second" not in head
        engine.resume()
        rest = await response.content.read()
    assert b"second" in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_caller_who_leaves_frees_the_slot(
    engine: ScriptedEngine, gateway: Gateway, route: Route
) -> None:
    engine.script = Script(tokens=("first", "second"), stall_after=1)
    async with route.stream() as response:
        await response.content.readuntil(b"first")
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    await gateway.until(lambda: not route.orchestrator.sessions[LABEL])


async def test_within_its_capacity_nothing_waits_and_beyond_it_the_orchestrator_refuses(
    engine: ScriptedEngine, gateway: Gateway, route: Route
) -> None:
    engine.script = Script(tokens=("first", "second"), stall_after=1)
    async with route.stream() as one, route.stream() as other:
        for response in (one, other):
            assert response.status == 200
            await response.content.readuntil(b"first")
        assert (gateway.pool().in_flight, gateway.pool().waiting) == (2, 0)
        status, text, _ = await route.call()
        assert (status, text) == (503, "no capacity available for runner\n")
        engine.resume()
    assert engine.generations == 2


@pytest.mark.parametrize("path", [LLM, OPENAI])
async def test_slots_that_others_took_are_a_503_with_a_time_to_return(
    engine: ScriptedEngine, gateway: Gateway, route: Route, path: str
) -> None:
    engine.script = Script(tokens=("first", "second"), stall_after=1)
    others = [asyncio.create_task(gateway.post(chat())) for _ in range(2)]
    await gateway.until(lambda: gateway.pool().in_flight == 2)
    for stream in (False, True):
        status, text, headers = await route.call(path, chat(stream=stream))
        assert (status, json.loads(text)["error"]["code"]) == (503, "overloaded")
        assert int(headers["Retry-After"]) >= 1
    engine.resume()
    assert [status for status, _, _ in await asyncio.gather(*others)] == [200, 200]


async def test_a_runner_that_drains_is_left_alone_until_it_is_back(
    gateway: Gateway, route: Route
) -> None:
    async def offered() -> list[str]:
        async with gateway.http.get(route.orchestrator.url + "/discovery") as response:
            ((entry),) = await response.json()
            return [runner["app"] for runner in entry["runners"]]

    assert await offered() == ["llm/m"]
    gateway.app.in_flight.draining = True
    await route.orchestrator.check_health()
    assert await offered() == []
    assert (await route.call())[0] == 404
    gateway.app.in_flight.draining = False
    await route.orchestrator.check_health()
    assert await offered() == ["llm/m"]
    assert (await route.call())[0] == 200


async def test_a_runner_whose_engine_is_gone_is_not_offered(
    engine: ScriptedEngine, start_gateway: StartGateway, register: Register
) -> None:
    engine.kill()
    gateway = await start_gateway(engine, server=OPEN)
    await gateway.until(lambda: gateway.app.models.find("m").state == "down")
    route = await register(gateway)
    assert (await route.call())[:2] == (404, "runner not found\n")


async def test_without_keys_callers_are_refused_unless_all_are_served(
    engine: ScriptedEngine, start_gateway: StartGateway, register: Register
) -> None:
    """An orchestrator on the same machine looks like a caller there, but for its headers."""
    for server in ({}, {"trusted_proxies": ["127.0.0.1"]}):
        route = await register(await start_gateway(engine, server=server))
        status, text, _ = await route.call(OPENAI, **{"X-Real-IP": "127.0.0.1"})
        assert (status, json.loads(text)["error"]["code"]) == (403, "forbidden")
    assert engine.generations == 0
    route = await register(await start_gateway(engine, server=OPEN))
    assert (await route.call(OPENAI))[0] == 200


async def test_with_keys_callers_send_their_own_through_the_orchestrator(
    engine: ScriptedEngine, start_gateway: StartGateway, register: Register
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "a-secret-key"})
    route = await register(gateway)
    assert (await route.call())[0] == 401
    assert (await route.call(Authorization="Bearer a-secret-key"))[0] == 200
    for figures in ("/metrics", "/hardware/info"):
        assert (await gateway.get(figures))[0] == 200, "from this machine"
        assert (await route.call(figures, method="GET"))[0] == 401, "from elsewhere"


async def test_what_authorises_a_session_is_in_no_log_no_answer_no_figure_no_file_and_no_engine(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    register: Register,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = await start_gateway(engine, server={**OPEN, "log_level": "debug"})
    route = await register(gateway)
    engine.scripts = [Script(status=500) for _ in range(3)] + [Script(die_after=1)]
    calls: list[tuple[str, Any, dict[str, str]]] = [
        *[(path, chat(stream=stream), {}) for path in (LLM, OPENAI) for stream in (False, True)],
        (LLM, chat(model="nope"), {}),
        (LLM, chat(frobnicate=1), {}),
        (OPENAI, b"{", {}),
        ("/nowhere", chat(), {}),
        ("/admin/v1/keys", chat(), {}),
        ("/v1/responses", {"input": "Hi"}, {}),
        (OPENAI, chat(), {"Idempotency-Key": "kept"}),
    ]
    answers = []
    for path, body, headers in calls:
        status, text, told = await route.call(path, body, **PAYMENT, **headers)
        answers.append(f"{status} {text} {dict(told)}")
    assert {answer[:3] for answer in answers} >= {"200", "400", "404", "502"}
    _, figures, _ = await gateway.get("/metrics")
    _, described, _ = await route.call("/openapi.json", method="GET", **PAYMENT)
    written = capfd.readouterr()
    kept = stored(tmp_path)
    sent = [repr(request.headers) + repr(request.body) for request in engine.requests]
    lines = [record.getMessage() + repr(vars(record)) for record in caplog.records]
    unlogged = [path for path, *_ in calls if path in ("/nowhere", "/admin/v1/keys")]
    assert sum(line.startswith("request") for line in lines) == len(calls) - len(unlogged)
    assert len(kept) > 0
    assert len(sent) >= 5
    places = [*lines, written.out, written.err, figures, described, *answers, *kept, *sent]
    hidden = [*route.orchestrator.secrets, *PAYMENT.values()]
    assert len(hidden) == 2 * (len(calls) + 1) + len(PAYMENT)
    assert not [secret for secret in hidden if any(secret in place for place in places)]
    assert not [line for line in sent if "livepeer" in line.lower()]


def stored(folder: Path) -> list[str]:
    """What is in the files of the store, as far as it is text."""
    return [file.read_bytes().decode("latin-1") for file in folder.glob("reverie.db*")]
