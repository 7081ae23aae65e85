"""What breaks for good, or falls silent, does so by each dialect's own grammar."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.harness import Gateway, StartGateway
from tests.http.conformance.dying import TOKENS, WAYS, next_answer, start
from tests.http.conformance.ledger import rows
from tests.http.conformance.readers.reading import Reading
from tests.http.conformance.routes import EVERY_ROUTE, SERVER, Route, Wants

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
