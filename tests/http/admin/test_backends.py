"""Several backends behind one model, over real sockets: what clients and the operator see."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.gateway.scheduling.backend_state import FAILURES, LONGEST_WAIT
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

ADMIN = {"REVERIE_ADMIN_KEY": "a-very-secret-admin-key"}
AS_ADMIN = {"Authorization": "Bearer a-very-secret-admin-key"}
PATH = "/admin/v1/backends"


async def listed(gateway: Gateway) -> list[dict[str, Any]]:
    status, answer, headers = await gateway.get(PATH, AS_ADMIN)
    assert (status, answer["object"], headers["Cache-Control"]) == (200, "list", "no-store")
    return list(answer["data"])


async def probed(gateway: Gateway, engine: ScriptedEngine) -> None:
    """Wait for the first probe, after which the next one is seconds off."""
    await gateway.until(lambda: all(b.health is not None for b in gateway.pool().backends))


@pytest.mark.parametrize("store", [{}, {"url": "none"}], ids=["store", "no store"])
async def test_the_operator_sees_how_each_backend_stands(
    engine: ScriptedEngine, start_gateway: StartGateway, store: dict[str, str]
) -> None:
    backend = {"url": engine.url, "kind": "vllm", "slots": 3, "weight": 0.5}
    gateway = await start_gateway(
        environ=ADMIN, store=store, models=[{"name": "m", "backends": [backend]}]
    )
    await probed(gateway, engine)
    [backend_entry] = await listed(gateway)
    probe = backend_entry.pop("last_probe")
    assert (probe["ok"], probe["code"]) == (True, None)
    assert probe["at"].endswith("Z")
    host = engine.url.removeprefix("http://").removesuffix("/v1")
    assert backend_entry == {
        "model": "m",
        "name": f"0:{host}",
        "kind": "vllm",
        "url": engine.url,
        "machine": None,
        "state": "closed",
        "reason": None,
        "draining": False,
        "retry_in": 0.0,
        "ready": True,
        "slots": 3,
        "in_flight": 0,
        "weight": 0.5,
        "tokens_per_second": None,
        "time_to_first_token": None,
        "consecutive_failures": 0,
        "last_error": None,
    }


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer wrong"}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer a-user-of-this-server"}, (403, "forbidden")),
    ],
)
async def test_nobody_else_sees_it(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    headers: dict[str, str],
    refusal: tuple[int, str],
) -> None:
    environ = {**ADMIN, "REVERIE_API_KEYS": "a-user-of-this-server"}
    gateway = await start_gateway(engine, environ=environ)
    for path in (PATH, f"{PATH}?odd=1"):
        status, answer, _ = await gateway.get(path, headers)
        assert (status, answer["error"]["code"]) == refusal
        assert engine.url not in str(answer)


async def test_a_parameter_that_is_not_known_is_refused(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    status, answer, _ = await gateway.get(f"{PATH}?model=m", AS_ADMIN)
    assert (status, answer["error"]["param"]) == (400, "model")


async def test_a_backend_that_fails_is_shown_and_left_alone(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FIRST_WAIT", 1000.0)
    bad = Script(status=500, error={"message": "raw words of an engine"})
    async with ScriptedEngine(Script(tokens=("ok",))) as good:
        engine.script = bad
        gateway = await start_gateway(engine, good, environ=ADMIN)
        await probed(gateway, engine)
        state = gateway.pool().states[0]
        for number in range(100):
            state._cooldown_ends = 0.0  # as if the last failure were some seconds ago
            assert (await gateway.post(chat(f"Question {number}")))[0] == 200
        first, second = await listed(gateway)
        _, metrics, _ = await gateway.get("/metrics")
    assert len(engine.requests) == FAILURES
    assert (first["state"], second["state"]) == ("open", "closed")
    assert first["reason"] == "backend_error"
    assert first["consecutive_failures"] == FAILURES
    assert first["last_error"]["code"] == "backend_error"
    assert 0 < first["retry_in"] <= LONGEST_WAIT
    assert "raw words" not in str(first)
    labels = f'{{backend="{first["name"]}",model="m"'
    for line in (
        f'reverie_backend_state{labels},state="open"}} 1.0',
        f'reverie_backend_state{labels},state="closed"}} 0.0',
        f'reverie_backend_state_reason{labels},reason="backend_error"}} 1.0',
        f"reverie_backend_consecutive_failures{labels}}} {float(FAILURES)}",
        f"reverie_backend_probe_ok{labels}}} 1.0",
    ):
        assert line in metrics


async def test_a_backend_that_is_not_there_takes_no_request_at_all(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with ScriptedEngine(Script(tokens=("ok",))) as good:
        engine.kill()
        gateway = await start_gateway(engine, good, environ=ADMIN)
        await probed(gateway, engine)
        first, second = await listed(gateway)
        assert (first["state"], second["state"]) == ("open", "closed")
        assert first["reason"] == "probe_failed"
        assert first["last_probe"]["code"] == "backend_error"
        await engine.restart()
        for number in range(10):
            assert (await gateway.post(chat(f"Question {number}")))[0] == 200
        assert not engine.requests


async def test_when_every_backend_is_down_clients_are_told_when_to_return(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with ScriptedEngine() as other:
        engine.kill()
        other.kill()
        gateway = await start_gateway(engine, other)
        await probed(gateway, engine)
        status, answer, headers = await gateway.post(chat())
    assert (status, answer["error"]["code"]) == (502, "backend_error")
    assert 1 <= int(headers["Retry-After"]) <= 5
