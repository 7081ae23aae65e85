"""How long the shortest answer is that a translated schema allows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from reverie.backends.encoding.json_size import shortest


def requiring(name: str, schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def size(schema: Any, **definitions: Any) -> float:
    return shortest({"root": schema, **definitions})["root"]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        requiring("a", False),
        requiring("a", {"$ref": "#/$defs/root"}),
        {"type": "array", "items": {"$ref": "#/$defs/root"}, "minItems": 1},
        {"type": "array", "prefixItems": [False], "minItems": 1},
        {"allOf": [{"type": "string"}, {"$ref": "#/$defs/root"}]},
        {"anyOf": [False, {"$ref": "#/$defs/root"}]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
    ],
)
def test_what_never_ends_is_infinite(schema: Any) -> None:
    assert size(schema) == math.inf


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/root"}}},
        {**requiring("a", {"$ref": "#/$defs/root"}), "type": ["object", "null"]},
        {"type": "array", "items": {"$ref": "#/$defs/root"}},
        {"anyOf": [{"type": "null"}, requiring("next", {"$ref": "#/$defs/root"})]},
        {"type": "array", "prefixItems": [{}, False], "minItems": 1},
    ],
)
def test_what_can_end_is_short(schema: Any) -> None:
    assert size(schema) < 20


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"enum": ["x" * 500, "y" * 300]}, "y" * 300),
        (requiring("n" * 99, {"enum": [1]}), {"n" * 99: 1}),
        ({"type": "array", "minItems": 50, "items": {"enum": ["abc"]}}, ["abc"] * 50),
        ({"type": "array", "minItems": 3, "prefixItems": [{}], "items": {"enum": ["a" * 9]}},
         [1, "a" * 9, "a" * 9]),
    ],
)  # fmt: skip
def test_the_size_is_about_that_of_the_shortest_answer(schema: Any, answer: Any) -> None:
    assert size(schema) == pytest.approx(len(json.dumps(answer)), rel=0.1)


def test_each_level_of_references_may_double_it() -> None:
    levels = {
        str(n): {
            "type": "object",
            "required": ["a", "b"],
            "additionalProperties": {"$ref": f"#/$defs/{n + 1}"},
        }
        for n in range(20)
    }
    assert size({"$ref": "#/$defs/0"}, **levels, **{"20": {"enum": [1]}}) > 2**20


def test_a_long_chain_of_references_is_followed_to_its_end() -> None:
    chain = {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(2_000)}
    assert size({"$ref": "#/$defs/0"}, **chain, **{"2000": {"enum": [1]}}) == 1
