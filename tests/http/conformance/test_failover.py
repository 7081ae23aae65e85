"""Engines that die at any moment: every dialect goes on, or ends as its own grammar says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import cycle
from typing import Any

import pytest

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine, ToolCall, render
from tests.harness import Gateway, StartGateway
from tests.http.conformance.ledger import Row, as_told, rows
from tests.http.conformance.readers.reading import Reading, Used
from tests.http.conformance.routes import EVERY_ROUTE, ROUTES, SERVER, Route, Wants

TOKENS = ("One", " two", "\n", "\n", "né🙂", "b'“", ".")
WAYS = ("reset", "close", "end")


@pytest.fixture
async def engines() -> AsyncIterator[list[ScriptedEngine]]:
    script = Script(tokens=TOKENS, cached_tokens=4)
    async with ScriptedEngine(script) as first, ScriptedEngine(script) as second:
        yield [first, second]


async def start(
    start_gateway: StartGateway, engines: list[ScriptedEngine], **backend: Any
) -> Gateway:
    return await start_gateway(*engines, server=SERVER, backend={"kind": "vllm", **backend})


def next_answer(engines: list[ScriptedEngine], **fields: Any) -> None:
    """Let the next answer go wrong, whichever engine gives it."""
    scripts = [Script(**{"tokens": TOKENS, "cached_tokens": 4, **fields})]
    for engine in engines:
        engine.scripts = scripts


@EVERY_ROUTE
async def test_an_answer_whose_engine_dies_after_any_token_is_what_it_would_have_been(
    route: Route, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engines)
    billed = Row("ok", Used(10, len(TOKENS) * route.choices, 4))
    expected = route.expected(engines[0].script)
    for after, how in zip(range(len(TOKENS) + 1), cycle(WAYS)):
        next_answer(engines, die_after=after, die_how=how)
        reading = await route.stream(gateway)
        assert reading.problems == [], after
        assert reading.said == expected, after
        assert reading.usage == as_told(billed.used, reading.usage), after
        assert rows(store) == [billed] * (after + 1)
    for after in (1, len(TOKENS)):
        next_answer(engines, die_after=after)
        whole = await route.whole(gateway)
        assert (whole.problems, whole.said, whole.usage) == ([], expected, reading.usage)
        assert rows(store)[-1] == billed
    assert sum(engine.died for engine in engines) == len(TOKENS) + 1 + 2


@EVERY_ROUTE
async def test_an_answer_whose_engine_dies_between_any_two_events_is_whole(
    route: Route, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engines)
    expected = (await route.stream(gateway)).said
    (asked, *_) = [request.body for engine in engines for request in engine.requests]
    script = engines[0].script
    raw = render.render(script, render.read_options(asked, script, "m"), asked).whole
    bounds = [0, *(found.end() for found in re.finditer(b"\n\n", raw))]
    for number, (at, how) in enumerate(zip(bounds, cycle(WAYS)), start=2):
        next_answer(engines, die_at_byte=at, die_how=how)
        reading = await route.stream(gateway)
        assert reading.problems == [], at
        assert reading.said == expected, at
        billed = rows(store)
        assert len(billed) == number
        assert reading.usage == as_told(billed[-1].used, reading.usage)
        assert billed[-1].used.completion == len(TOKENS) * route.choices
    assert sum(engine.died for engine in engines) == len(bounds)


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
async def test_a_stop_string_across_two_engines_is_told_by_its_name(
    kind: str, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    (route,) = (one for one in ROUTES if "stop" in one.can)
    gateway = await start(start_gateway, engines, kind=kind)
    tokens = ("Hello", " E", "N", "D and", " more")
    for engine in engines:
        engine.script = Script(tokens=tokens)
    for after in range(4):
        next_answer(engines, tokens=tokens, die_after=after)
        reading = await route.stream(gateway, Wants(stop=("END",)))
        assert reading.problems == []
        (choice,) = reading.choices
        if kind == "llamacpp" or after in (2, 3):  # what this vLLM is given, it doesn't look for
            assert (choice.finish, choice.stop) == ("stop", "END"), after
            assert reading.text.removesuffix("E").removesuffix("EN") == "Hello ", after
        assert reading.usage == rows(store)[-1].used


THINKS = Script(reasoning=("Hm", "m.", "\n"), tokens=())
CALLS = Script(
    tokens=("Look.",),
    tool_calls=(
        ToolCall(name="f", id="call_a", arguments=('{"a"', ":1}")),
        ToolCall(name="g", id="call_b"),
    ),
)


@EVERY_ROUTE
async def test_an_answer_that_breaks_for_good_ends_with_the_dialects_own_error(
    route: Route, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engines, continues=False)
    broken = 0
    for script, needs, first in (
        (Script(tokens=TOKENS), "", 1),
        (THINKS, "reasoning", 1),
        (CALLS, "tools", 2),
    ):
        if needs and needs not in route.can:
            continue
        assert not callable(script.tokens)
        pieces = len(script.tokens) + len(script.reasoning)
        pieces += sum(1 + len(call.arguments) for call in script.tool_calls)
        whole = route.expected(script)
        for after, how in zip(range(first, pieces + 1), cycle(WAYS)):
            for engine in engines:
                engine.script = script
            fields = {name: getattr(script, name) for name in ("tokens", "reasoning", "tool_calls")}
            next_answer(engines, **fields, die_after=after, die_how=how)
            reading = await route.stream(gateway, Wants(tools=bool(script.tool_calls)))
            broken += 1
            expect_broken(reading, whole)
            await settled(gateway, store, broken)
            assert rows(store)[-1].outcome == "failed"
            if route.choices == 1:  # of others, how far the other one came is chance
                assert rows(store)[-1].used.completion == after
            for engine in engines:  # so that no engine is known for its failures alone
                engine.scripts = []
            assert gateway.pool().in_flight == 0


async def settled(gateway: Gateway, store: Store, count: int) -> None:
    """Wait until so many requests are; those that broke are after their last byte."""
    await gateway.until(lambda: len(rows(store)) == count)


def expect_broken(reading: Reading, whole: Any) -> None:
    """Expect an error in place of an end, after a part of the whole answer."""
    assert reading.problems == []
    assert reading.error
    assert not reading.complete
    for choice, expected in zip(reading.choices, whole, strict=True):
        assert expected[0].startswith(choice.text)
        assert expected[1].startswith(choice.reasoning)
        assert len(choice.calls) <= len(expected[3])


@EVERY_ROUTE
async def test_an_error_before_the_first_token_of_a_stream_that_is_open_is_told_in_it(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server={**SERVER, "commit_delay": 0.001})
    engine.script = Script(delay_headers=0.05, status=400, error={"message": "No such thing."})
    reading = await route.stream(gateway)
    assert reading.problems == []
    assert reading.error is not None
    assert reading.error.startswith("The engine refused")
    assert {choice.text for choice in reading.choices} == {""}


@EVERY_ROUTE
async def test_silence_is_bridged_by_what_the_dialects_clients_pass_over(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, server={**SERVER, "ping_interval": 0.05, "commit_delay": 0.01}
    )
    engine.script = Script(tokens=TOKENS, stall_after=2)
    expected = route.expected(engine.script)
    written = b""
    async with route.opened(gateway) as response:
        while not route.reader().stream(written).pings:
            written += await response.content.readany()
        await gateway.until(lambda: engine.stalled == route.choices)
        engine.resume()
        written += await response.read()
    reading = route.reader().stream(written)
    assert reading.problems == []
    assert reading.said == expected
