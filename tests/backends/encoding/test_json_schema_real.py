"""On the real engine: an answer is what its JSON Schema asks for, or the request is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reverie.backends.base import Backend
from reverie.backends.embedded import EmbeddedBackend
from reverie.backends.http import HttpBackend
from reverie.errors import UnsupportedParameter
from reverie.events import Delta, Event, Finish
from reverie.models.store import fetch
from reverie.request import GenerateRequest
from reverie.settings import DEFAULT_MODEL, BackendSettings, ModelSettings

# The engine doesn't know on which loop it is asked: production's is enough.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_factories=["uvloop"])]

HI = [{"role": "user", "content": "Answer with JSON about a cat named Tom."}]
TIMEOUTS = {"first_token_timeout": 60.0, "stall_timeout": 60.0}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


CAT = an_object(kind={"const": "cat"}, lives={"type": "integer", "minimum": 2, "maximum": 9})
DOG = an_object(kind={"const": "dog"}, good={"type": "boolean"})
POINT = an_object(x={"type": "integer", "minimum": 0, "maximum": 9})

SCHEMAS: dict[str, dict[str, Any]] = {
    "unanchored pattern": {"type": "string", "pattern": "[0-9]{2}x", "maxLength": 8},
    "anchored pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d+$", "maxLength": 8},
    "alternatives": {"type": "string", "pattern": "^ab|cd$", "maxLength": 8},
    "length": {"type": "string", "minLength": 3, "maxLength": 6},
    "date": {"type": "string", "format": "date"},
    "date of a pattern": {"type": "string", "format": "date", "pattern": "^20"},
    "address": {"type": "string", "format": "ipv4"},
    "address of the newer kind": {"type": "string", "format": "ipv6"},
    "duration": {"type": "string", "format": "duration"},
    "email as zod writes it": {"type": "string", "format": "email", "maxLength": 40, "pattern":
              r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
              r"[A-Za-z]{2,}$"},
    "decimal as pydantic writes it": {"type": "string", "maxLength": 8,
              "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
    "decimal with bounds": {"type": "string", "maxLength": 8,
              "pattern": r"^(?!^[-+.]*$)[+-]?0*\d{0,3}(?:\.\d{0,2}0*)?$"},
    "tuple of an older draft": {"type": "array", "items": [{"const": 1}, {"type": "null"}],
              "minItems": 2, "additionalItems": False, "$schema":
              "http://json-schema.org/draft-07/schema#"},
    "set of a few values": an_object(a={"type": "array", "items": {"enum": ["x", "y", "z"]},
              "uniqueItems": True, "minItems": 2}),
    "names that are strings": {"type": "object", "propertyNames": {"type": "string"},
              "additionalProperties": {"type": "boolean"}, "maxProperties": 1},
    "integer bounds": {"type": "integer", "exclusiveMinimum": 17, "maximum": 23},
    "number bounds": {"type": "number", "minimum": 0.5, "maximum": 0.75, "multipleOf": 0.25},
    "open bounds": {"type": "number", "exclusiveMinimum": -2.5, "exclusiveMaximum": -1.5},
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 50, "maximum": 999},
    "enum": {"enum": ["red", 3, None, {"a": [1]}]},
    "const": an_object(a={"const": 'x"y\n'}),
    "array": {"type": "array", "items": POINT["properties"]["x"], "minItems": 2, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "minItems": 2,
              "items": False},
    "map": {"additionalProperties": {"type": "boolean"}, "maxProperties": 1},
    "patternProperties": {"patternProperties": {"^k[0-9]$": {"type": "boolean"}},
                          "minProperties": 1, "maxProperties": 2},
    "one of them": {"properties": {"a": {"const": 1}, "b": {"const": 2}}, "minProperties": 1},
    "anyOf": {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 9}, {"type": "null"}]},
    "oneOf": {"oneOf": [CAT, DOG]},
    "allOf": {"allOf": [an_object(a={"type": "integer", "minimum": 3}),
                        {"properties": {"a": {"maximum": 5}}, "additionalProperties": False}]},
    "beside": {"properties": {"a": {"const": 1}, "b": {"const": 2}}, "additionalProperties": False,
               "type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "reference": {"$ref": "#/$defs/p", "$defs": {"p": POINT}},
    "recursion": {"properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}},
    "types": {"type": ["integer", "boolean"], "minimum": 0, "maximum": 9},
}  # fmt: skip


@asynccontextmanager
async def embedded(state: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EmbeddedBackend]:
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    model = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    settings = ModelSettings(name="m", source=DEFAULT_MODEL, slots=4, kv_tokens=8192)
    backend = EmbeddedBackend(settings, model, **TIMEOUTS)
    await backend.start(lambda: None)
    try:
        await backend.runner.wait_ready(60)
        yield backend
    finally:
        await backend.stop()


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EmbeddedBackend]:
    """The default model with four slots, ready."""
    async with embedded(tmp_path, monkeypatch) as backend:
        yield backend


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


async def answer(backend: Backend, **fields: Any) -> list[Event]:
    """The events of one answer that has passed the check."""
    request = GenerateRequest(model="m", messages=HI, **{"max_tokens": 30, **fields})
    backend.check(request)
    events: list[Event] = []
    await backend.generate(request, events.extend)
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ended(events: list[Event]) -> bool:
    return Finish("stop") in events


async def violations(
    backend: Backend, schemas: dict[str, Any], *temperatures: float
) -> tuple[list[str], set[str]]:
    """What was answered against its schema; and the names of those that were answered in full."""
    wrong: list[str] = []
    complete: set[str] = set()
    slots = asyncio.Semaphore(4)

    async def try_one(name: str, temperature: float) -> None:
        async with slots:
            events = await answer(
                backend, response_format=form(schemas[name]), temperature=temperature, seed=2
            )
        if not ended(events):
            return  # cut by max_tokens
        try:
            jsonschema.validators.validator_for(
                schemas[name], default=jsonschema.Draft202012Validator
            )(schemas[name], format_checker=jsonschema.FormatChecker()).validate(
                json.loads(text_of(events))
            )
            complete.add(name)
        except (ValueError, jsonschema.ValidationError):
            wrong.append(f"{name} at {temperature}: {text_of(events)}")

    await asyncio.gather(
        *(try_one(name, temperature) for name in schemas for temperature in temperatures)
    )
    return wrong, complete


@pytest.mark.slow
async def test_every_answer_that_ends_fulfils_its_schema(engine: EmbeddedBackend) -> None:
    wrong, complete = await violations(engine, SCHEMAS, 0.0, 1.5)
    assert not wrong
    assert len(complete) > len(SCHEMAS) - 3


@pytest.mark.slow
async def test_a_llama_server_of_ones_own_fulfils_what_is_not_refused(
    engine: EmbeddedBackend,
) -> None:
    url = f"http+unix://{str(engine.runner.socket).replace('/', '%2F')}/v1"
    own = HttpBackend("b", BackendSettings(url=url, kind="llamacpp"), model="m", **TIMEOUTS)
    await own.start(lambda: None)
    try:
        accepted = {}
        for name, schema in SCHEMAS.items():
            try:
                own.check(GenerateRequest(model="m", messages=HI, response_format=form(schema)))
                accepted[name] = schema
            except UnsupportedParameter:
                continue
        wrong, complete = await violations(own, accepted, 1.5)
    finally:
        await own.stop()
    assert not wrong
    assert {"integer bounds", "enum", "const", "oneOf", "date", "reference"} <= complete


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 5},
    ],
)
async def test_what_no_answer_fulfils_is_refused_and_others_are_answered(
    engine: EmbeddedBackend, schema: dict[str, Any]
) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedParameter) as caught:
            await answer(engine, response_format=form(schema))
        assert caught.value.param == "response_format"
    events = await answer(engine, response_format=form(POINT))
    assert json.loads(text_of(events))["x"] in range(10)
    assert text_of(await answer(engine, max_tokens=3))


async def test_a_forced_call_fulfils_the_functions_schema(engine: EmbeddedBackend) -> None:
    schema = {
        "$id": "https://example.com/s",
        "properties": {"code": {"$ref": "#/$defs/code"}},
        "required": ["code"],
        "$defs": {"code": {"type": "string", "pattern": "[0-9]{2}x", "maxLength": 8}},
    }
    tools = [{"type": "function", "function": {"name": "save", "parameters": schema}}]
    events = await answer(engine, tools=tools, tool_choice="required", temperature=1.5, seed=4)
    calls = [c for event in events if isinstance(event, Delta) for c in event.tool_calls]
    assert calls[0].name == "save"
    jsonschema.validate(json.loads("".join(call.arguments for call in calls)), schema)
    assert Finish("tool_calls") in events


async def test_json_object_is_an_object_and_max_tokens_still_cuts(engine: EmbeddedBackend) -> None:
    events = await answer(engine, response_format={"type": "json_object"}, max_tokens=5)
    assert text_of(events).startswith("{")
    assert Finish("length") in events
