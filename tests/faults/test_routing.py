"""Several engines behind one model, over real sockets: where requests go as the engines fare."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from reverie.gateway.scheduling.backend_state import FAILURES, BackendState
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

Engines = list[ScriptedEngine]


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ScriptedEngine(Script(tokens=("Hello", " world"))))
            for _ in range(3)
        ]


def conversation(number: int, turns: int = 1) -> dict[str, object]:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": f"Question {number}"},
    ]
    for turn in range(1, turns):
        messages += [
            {"role": "assistant", "content": "Hello world"},
            {"role": "user", "content": f"And then {turn}?"},
        ]
    return {"messages": messages}


async def ask(gateway: Gateway, body: dict[str, object]) -> None:
    assert (await gateway.post(body))[0] == 200


def asked_about(engine: ScriptedEngine) -> set[str]:
    """The openings of the conversations that an engine had turns of."""
    return {recorded.body["messages"][1]["content"] for recorded in engine.requests}


def state_of(gateway: Gateway, number: int) -> BackendState:
    state: BackendState = gateway.pool().states[number]
    return state


async def test_all_turns_of_a_conversation_go_to_one_engine(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(*engines)
    for turns in (1, 2, 3):
        for number in range(12):
            await ask(gateway, conversation(number, turns))
    talks = [asked_about(engine) for engine in engines]
    assert sum(map(len, talks)) == 12  # none of them was split
    assert sum(map(bool, talks)) > 1


@pytest.mark.slow
async def test_conversations_of_an_engine_that_went_move_and_come_back_with_it(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(*engines)
    for number in range(12):
        await ask(gateway, conversation(number))
    talks = [asked_about(engine) for engine in engines]
    engines[0].kill()
    for number in range(12):
        await ask(gateway, conversation(number, 2))
    assert asked_about(engines[1]) >= talks[1]
    assert asked_about(engines[1]) | asked_about(engines[2]) == talks[0] | talks[1] | talks[2]
    await engines[0].restart()
    engines[0].requests.clear()
    await gateway.until(lambda: state_of(gateway, 0).admits)
    await gateway.until(lambda: not state_of(gateway, 0).in_cooldown)
    for number in range(12):
        await ask(gateway, conversation(number, 3))
    assert asked_about(engines[0]) == talks[0]


async def test_an_engine_goes_from_closed_to_open_to_its_trial_and_back(
    engines: Engines,
    start_gateway: StartGateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "reverie.backends")
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FIRST_WAIT", 1000.0)
    gateway = await start_gateway(*engines)
    await gateway.pool().backends[0]._monitor.stop()  # this one is for requests to find out
    sick, state = engines[0], state_of(gateway, 0)
    sick.script = Script(status=500, error={"message": "raw words"})
    number = 0
    while state.circuit == "closed":
        state._cooldown_ends = 0.0  # as if the last failure were some seconds ago
        await ask(gateway, conversation(number := number + 1))
    failed = sick.refused
    assert failed == FAILURES
    state._cooldown_ends = 0.0
    for more in range(10):
        await ask(gateway, conversation(number + more))
    assert sick.refused == failed
    sick.script = Script()
    state._wait_ends = 0.0  # as if the wait were over
    while state.circuit == "half_open":
        await ask(gateway, conversation(number := number + 1))
    assert state.failures == 0
    told = [record.fields for record in caplog.records if record.name == "reverie.backends"]  # type: ignore[attr-defined]
    assert [line["state"] for line in told] == ["open", "half_open", "closed"]
    assert "raw words" not in str(told)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_engine_is_left_alone_for_a_while_and_not_held_to_have_failed(
    engines: Engines, start_gateway: StartGateway, status: int
) -> None:
    busy = engines[0]
    busy.script = Script(status=status, retry_after=20)
    gateway = await start_gateway(*engines)
    for number in range(20):
        await ask(gateway, conversation(number))
    assert busy.refused == 1
    state = state_of(gateway, 0)
    assert (state.circuit, state.failures, state.in_cooldown) == (
        "closed",
        0,
        True,
    )
    assert state.last_error is not None
    assert state.last_error.code == "overloaded"


async def test_requests_that_an_engine_refuses_as_wrong_say_nothing_against_it(
    engines: Engines, start_gateway: StartGateway
) -> None:
    for engine in engines:
        engine.script = Script(status=400)
    gateway = await start_gateway(*engines)
    for number in range(4 * FAILURES):
        assert (await gateway.post(conversation(number)))[0] == 400
    for state in gateway.pool().states:
        assert (state.circuit, state.failures) == ("closed", 0)
        assert not state.in_cooldown


async def test_an_engine_that_falls_silent_has_failed(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engines[0], server={"stall_timeout": 0.05})
    engines[0].script = Script(tokens=("a", "b", "c"), stall_after=1)
    await gateway.post(chat())
    state = state_of(gateway, 0)
    assert state.failures == 1
    assert state.last_error is not None
    assert state.last_error.code == "backend_timeout"


async def test_the_speed_of_an_engine_is_measured(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engines[0], environ={"REVERIE_ADMIN_KEY": "x" * 20})
    engines[0].script = Script(tokens=("a",) * 5, first_delay=0.02, delay=0.02)
    await ask(gateway, chat())
    headers = {"Authorization": "Bearer " + "x" * 20}
    _, answer, _ = await gateway.get("/admin/v1/backends", headers)
    [told] = answer["data"]
    assert 0 < told["tokens_per_second"] <= 51
    assert told["time_to_first_token"] >= 0.019
    _, metrics, _ = await gateway.get("/metrics")
    assert "reverie_backend_seconds_per_token{" in metrics
    assert "reverie_backend_time_to_first_token_seconds{" in metrics


async def test_a_client_that_leaves_says_nothing_of_the_engine(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engines[0])
    engines[0].script = Script(tokens=("a", "b"), stall_after=1)
    for _ in range(FAILURES):
        async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
            await response.content.readany()
            response.close()
    await engines[0].wait_for(lambda e: e.cancelled == FAILURES)
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    state = state_of(gateway, 0)
    assert (state.circuit, state.failures) == ("closed", 0)


async def test_a_request_that_every_engine_fails_alike_leaves_their_circuits_closed(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(*engines)
    for engine in engines:
        engine.script = Script(status=500, error={"message": "list index out of range"})
    for number in range(2 * FAILURES):
        for index in range(len(engines)):
            state_of(gateway, index)._cooldown_ends = 0.0  # as if it were some seconds ago
        status, answer, _ = await gateway.post(chat(f"Question {number}"))
        assert (status, answer["error"]["code"]) == (502, "backend_error")
    assert {state_of(gateway, index).circuit for index in range(3)} == {"closed"}
    assert [state_of(gateway, index).failures for index in range(3)] == [0, 0, 0]


async def test_messages_that_an_engine_can_not_render_are_asked_about_once(
    engines: Engines, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(*engines)
    words = "Jinja Exception: Conversation roles must alternate"
    for engine in engines:
        engine.script = Script(status=500, error={"code": 500, "message": words})
    status, answer, _ = await gateway.post(chat())
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert answer["error"]["param"] == "messages"
    assert sum(engine.refused for engine in engines) == 1
    assert [state_of(gateway, index).failures for index in range(3)] == [0, 0, 0]
