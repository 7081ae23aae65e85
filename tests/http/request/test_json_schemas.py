"""JSON Schemas in requests: which are accepted, and how the others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.errors import InvalidRequest
from reverie.http.request.body import parse_one as parse
from reverie.request import GenerateRequest

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def request(**fields: Any) -> GenerateRequest:
    return parse(json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode())


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    return caught.value


def json_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"properties": []},
        {"required": "a"},
        {"$ref": "https://example.org/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$schema": ["x"]},
        nested(100),
        nested(900),
        {"enum": list(range(100_000))},
        {"required": ["a", 1] * 200},
        {"properties": {f"p{number}": {} for number in range(3_000)}},
        {"description": "x" * 200_000},
    ],
    ids=lambda schema: str(schema)[:30],
)
def test_a_bad_or_boundless_schema_is_refused(schema: dict[str, Any]) -> None:
    error = refusal(response_format=json_format(schema))
    assert error.param == "response_format.json_schema.schema"
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert refusal(tools=[tool]).param == "tools.0.function.parameters"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        SCHEMA,
        {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]},
        {"pattern": r"^\p{L}+$"},
        {"enum": [f"value {number}" for number in range(1_000)]},
    ],
)
def test_a_good_schema_is_taken(schema: dict[str, Any]) -> None:
    sent = json_format(schema)
    assert request(response_format=sent).response_format == sent


def test_the_schemas_of_all_tools_share_one_budget() -> None:
    parameters = {"properties": {f"p{number}": {} for number in range(1_000)}}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": parameters}}
        for number in range(10)
    ]
    assert "together" in refusal(tools=tools).message
