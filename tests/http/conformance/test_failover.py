"""Engines that die at any moment: every dialect goes on as if nothing had happened."""

from __future__ import annotations

import re
from itertools import cycle

import pytest

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine, render
from tests.harness import StartGateway
from tests.http.conformance.dying import TOKENS, WAYS, next_answer, start
from tests.http.conformance.ledger import Row, as_told, rows
from tests.http.conformance.readers.reading import Used
from tests.http.conformance.routes import EVERY_ROUTE, ROUTES, Route, Wants


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
async def test_an_engine_that_dies_within_a_character_leaves_no_half_of_it(
    route: Route, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engines)
    smile = "🙂".encode()
    tokens = ("Hi ", smile[:1], smile[1:3], smile[3:], "!")
    for engine in engines:
        engine.script = Script(tokens=tokens)
    expected = route.expected(engines[0].script)
    for after in range(len(tokens) + 1):
        next_answer(engines, tokens=tokens, die_after=after)
        reading = await route.stream(gateway)
        assert (reading.problems, reading.said) == ([], expected), after
        assert reading.usage == as_told(rows(store)[-1].used, reading.usage)
        assert len(rows(store)) == after + 1


@EVERY_ROUTE
async def test_max_tokens_cuts_where_it_would_have_whichever_engine_gave_them(
    route: Route, engines: list[ScriptedEngine], start_gateway: StartGateway, store: Store
) -> None:
    gateway = await start(start_gateway, engines)
    for after in range(4):
        next_answer(engines, die_after=after)
        reading = await route.stream(gateway, Wants(max_tokens=3))
        assert reading.problems == [], after
        for choice in reading.choices:
            assert (choice.text, choice.finish) == ("".join(TOKENS[:3]), "length"), after
        row = rows(store)[-1]
        assert (row.outcome, row.used.completion) == ("length", 3 * route.choices)
        assert reading.usage == as_told(row.used, reading.usage)


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
