"""An answer that is asked for again is the same to the byte, from any of its events on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.harness import StartGateway
from tests.http.conformance.ledger import rows
from tests.http.conformance.routes import EVERY_ROUTE, NUMBERED, ROUTES, SERVER, Route, Wants

SCRIPT = Script(
    reasoning=("Hm", "m."),
    tokens=("Two", "\n\n", "lines\u2028", "."),
    tool_calls=(ToolCall(name="f", id="call_a", arguments=('{"a"', ":1}")),),
)
ASKED = Wants(tools=True)


def script_for(route: Route) -> Script:
    """As much as the dialect can say."""
    return SCRIPT if "tools" in route.can else Script(tokens=SCRIPT.tokens)


def asked_of(route: Route) -> Wants:
    return ASKED if "tools" in route.can else Wants()


def beginnings(stream: bytes) -> list[bytes]:
    """What there is up to each event, the empty beginning first."""
    events = stream.split(b"\n\n")[:-1]
    return [b"".join(one + b"\n\n" for one in events[:count]) for count in range(len(events) + 1)]


@EVERY_ROUTE
async def test_the_same_key_gives_the_same_bytes_and_one_bill(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    engine.script = script_for(route)
    wants = asked_of(route)
    first = await route.written(gateway, wants, idempotency_key="once")
    reading = route.reader().stream(first)
    assert reading.problems == []
    assert reading.said == route.expected(engine.script, wants)
    assert await route.written(gateway, wants, idempotency_key="once") == first
    at_once = [route.written(gateway, wants, idempotency_key="twice") for _ in range(3)]
    one, *others = await asyncio.gather(*at_once)
    assert others == [one, one]
    assert route.reader().stream(one).said == reading.said
    assert engine.generations == 2 * route.choices
    assert len(rows(store)) == 2


@NUMBERED
async def test_a_complete_stream_is_resumed_after_any_of_its_events(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    engine.script = script_for(route)
    wants = asked_of(route)
    whole = await route.written(gateway, wants, idempotency_key="once")
    for after, had in enumerate(beginnings(whole)):
        rest = await route.written(gateway, wants, idempotency_key="once", last_event_id=str(after))
        assert had + rest == whole, after
    assert engine.generations == route.choices


@NUMBERED
async def test_a_stream_that_is_written_is_resumed_after_any_event_that_there_is(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    tokens = ("One", " two", " three", " four", " five")
    engine.script = Script(tokens=tokens, stall_after=3)
    writing = asyncio.create_task(route.written(gateway, idempotency_key="once"))
    await gateway.until(lambda: engine.stalled == route.choices)
    async with AsyncExitStack() as stack:
        reading = [
            await stack.enter_async_context(
                route.opened(gateway, idempotency_key="once", last_event_id=str(after))
            )
            for after in range(3)
        ]
        begun = [await response.content.readany() for response in reading]
        engine.resume()
        whole = await writing
        rests = [
            begin + await response.read() for begin, response in zip(begun, reading, strict=True)
        ]
    for had, rest in zip(beginnings(whole), rests, strict=False):
        assert had + rest == whole
    assert route.reader().stream(whole).problems == []


@EVERY_ROUTE
async def test_an_answer_that_breaks_ends_alike_for_all_who_read_it(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    fault = {"message": "broken"}
    engine.script = Script(tokens=("One", " two", " three"), error_in_stream=fault, error_after=2)
    both = [route.written(gateway, idempotency_key="once") for _ in range(2)]
    one, other = await asyncio.gather(*both)
    assert one == other
    reading = route.reader().stream(one)
    assert reading.problems == []
    assert reading.error
    assert not reading.complete


@pytest.mark.parametrize("name", ["ollama-chat", "ollama-generate"])
async def test_lines_without_numbers_begin_again(
    name: str, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    (route,) = (one for one in ROUTES if one.name == name)
    gateway = await start_gateway(engine, server=SERVER)
    whole = await route.written(gateway, idempotency_key="once")
    again = await route.written(gateway, idempotency_key="once", last_event_id="1")
    assert again == whole
