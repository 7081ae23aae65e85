"""What an engine says is what every dialect says: streamed, in one piece, and in the ledger."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.harness import StartGateway
from tests.http.conformance.ledger import as_told, rows
from tests.http.conformance.readers.chat import ChatReader
from tests.http.conformance.readers.completions import CompletionsReader
from tests.http.conformance.readers.reading import Reader, Used
from tests.http.conformance.routes import EVERY_ROUTE, ROUTES, SERVER, Route, Wants

EMOJI = "🙂".encode()
BREAKS = 'a\nb\n\nc\r\nd\u2028e\u2029f\x85g\x1ch\x00i"\\/é'
CALLS = (
    ToolCall(name="f", id="call_a", arguments=('{"a"', ": ", "1}")),
    ToolCall(name="g", id="call_b", arguments=("{}",)),
)


class Scenario(NamedTuple):
    script: Script
    tokens: int
    """Those of the answer."""
    needs: frozenset[str] = frozenset()
    wants: Wants = Wants()


THINKS = frozenset({"reasoning"})
SCENARIOS = {
    "a text": Scenario(Script(tokens=("Hello", " world", "."), cached_tokens=4), 3),
    "a text in one write": Scenario(
        Script(tokens=("Hello", " world", "."), batch=None, cached_tokens=4), 3
    ),
    "nothing": Scenario(Script(tokens=()), 0),
    "blanks": Scenario(Script(tokens=(" ", "\n", "\n\n", " ")), 4),
    "what some take for the end of a line": Scenario(Script(tokens=tuple(BREAKS)), len(BREAKS)),
    "characters in parts": Scenario(
        Script(tokens=("Hi ", EMOJI[:1], EMOJI[1:3], EMOJI[3:] + EMOJI[:2], EMOJI[2:], "!")), 6
    ),
    "what is cut anywhere on its way": Scenario(Script(tokens=("né", "🙂🙂", "!"), split=7), 3),
    "a piece that is too long for a line": Scenario(
        Script(tokens=("é\n" * 20_000, "\x00" * 9_000)), 2
    ),
    "reasoning and a text": Scenario(
        Script(reasoning=("Hm", "m.\n"), tokens=("Yes", ".")), 4, THINKS
    ),
    "reasoning alone": Scenario(Script(reasoning=("Hm", "m."), tokens=()), 2, THINKS),
    "reasoning and a text in one write": Scenario(
        Script(reasoning=("Hm", "m."), tokens=("Yes", "."), batch=None), 4, THINKS
    ),
    "calls side by side": Scenario(
        Script(tokens=(), tool_calls=CALLS), 6, frozenset({"tools"}), Wants(tools=True)
    ),
    "reasoning, a text and calls": Scenario(
        Script(reasoning=("Hm",), tokens=("I", " look."), tool_calls=CALLS, batch=3),
        9,
        frozenset({"tools", "reasoning"}),
        Wants(tools=True),
    ),
    "log-probabilities": Scenario(
        Script(tokens=("Hello", " wörld", "\n\n", ".")),
        4,
        frozenset({"logprobs"}),
        Wants(logprobs=True),
    ),
    "a filter's end": Scenario(
        Script(tokens=("I", " must"), finish_reason="content_filter"), 2, frozenset({"filter"})
    ),
}


@EVERY_ROUTE
async def test_what_is_told_is_what_was_said_and_what_the_ledger_has(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    asked = 0
    can = route.can if route.name.startswith("ollama") else route.can | {"filter"}
    for name, (script, tokens, needs, wants) in SCENARIOS.items():
        if not needs <= can:
            continue
        engine.script = script
        streamed = await route.stream(gateway, wants)
        whole = await route.whole(gateway, wants)
        asked += 2
        assert (streamed.problems, whole.problems) == ([], []), name
        assert streamed.said == route.expected(script, wants), name
        assert whole.said == streamed.said, name
        billed = Used(10, tokens * route.choices, script.cached_tokens)
        told = as_told(billed, streamed.usage)
        assert (streamed.usage, whole.usage) == (told, told), name
        settled = rows(store)
        assert len(settled) == asked, name
        assert [row.used for row in settled[-2:]] == [billed, billed], name


@EVERY_ROUTE
async def test_an_answer_that_max_tokens_cuts_says_so_and_is_told_as_far_as_it_came(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    engine.script = Script(tokens=("One", " two", " three"))
    for reading in (
        await route.stream(gateway, Wants(max_tokens=2)),
        await route.whole(gateway, Wants(max_tokens=2)),
    ):
        assert reading.problems == []
        assert [choice.text for choice in reading.choices] == ["One two"] * route.choices
        assert [choice.finish for choice in reading.choices] == ["length"] * route.choices
        row = rows(store)[-1]
        assert row.outcome == "length"
        assert reading.usage == as_told(row.used, reading.usage)
    if "tools" not in route.can:
        return
    engine.script = Script(tokens=(), tool_calls=CALLS)
    for max_tokens in range(1, 6):
        wants = Wants(max_tokens=max_tokens, tools=True)
        streamed, whole = await route.stream(gateway, wants), await route.whole(gateway, wants)
        assert (streamed.problems, whole.problems) == ([], [])
        assert streamed.said == whole.said
        assert {choice.finish for choice in whole.choices} == {"length"}


@EVERY_ROUTE
async def test_an_engine_that_counts_nothing_is_counted_alike_for_client_and_ledger(
    route: Route, engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start_gateway(engine, server=SERVER)
    engine.script = Script(tokens=("One", " two", " three"), usage=False)
    for reading in (await route.stream(gateway), await route.whole(gateway)):
        assert reading.problems == []
        row = rows(store)[-1]
        assert reading.usage == as_told(row.used, reading.usage)
        assert row.used.prompt > 0


async def test_a_stop_string_that_spans_pieces_is_told_by_its_name(
    engine: ScriptedEngine, start_gateway: StartGateway, store: Store
) -> None:
    (route,) = (one for one in ROUTES if "stop" in one.can)
    gateway = await start_gateway(engine, server=SERVER)
    engine.script = Script(tokens=("Hello E", "NOT E", "N", "D never", " said"))
    wants = Wants(stop=("STOP", "END"))
    for reading in (await route.stream(gateway, wants), await route.whole(gateway, wants)):
        assert reading.problems == []
        assert reading.text == "Hello ENOT "
        assert (reading.choices[0].finish, reading.choices[0].stop) == ("stop", "END")
        assert reading.usage == rows(store)[-1].used


@pytest.mark.parametrize("batch", [1, 2, None])
async def test_the_usage_so_far_is_on_every_piece_however_they_arrive(
    batch: int | None, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, backend={"kind": "vllm"})
    engine.script = Script(tokens=("One", " two", " three"), batch=batch)
    options = {"include_usage": True, "continuous_usage_stats": True}
    readers: dict[str, Reader] = {
        "llm": ChatReader(livepeer=True, continuous=True),
        "chat": ChatReader(continuous=True),
        "completions": CompletionsReader(continuous=True),
    }
    for route in ROUTES:
        if (reader := readers.get(route.name)) is None:
            continue
        body = route.body(stream=True, stream_options=options)
        async with gateway.http.post(gateway.url + route.path, json=body) as response:
            reading = reader.stream(await response.read())
        assert reading.problems == []
        assert reading.said == route.expected(engine.script)
        assert reading.usage == Used(10, 3, 0)


async def test_the_usage_so_far_of_several_prompts_is_refused_rather_than_left_out(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, backend={"kind": "vllm"})
    options = {"continuous_usage_stats": True}
    body = {"prompt": ["One", "Two"], "stream": True, "stream_options": options}
    status, answer, _ = await gateway.post(body, "/v1/completions")
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")
    assert answer["error"]["param"] == "stream_options.continuous_usage_stats"
