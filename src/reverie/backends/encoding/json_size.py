"""How long the shortest answer is that a JSON Schema allows.

LLGuidance writes ahead what a schema leaves no choice in. Past some 75,000 bytes, or where a
schema requires itself without end, it gives up in the middle of an answer, in silence, and the
model goes on without a constraint.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

_ROUNDS = 64
"""Bounds the work on hostile references. Other schemas are settled after two or three rounds."""


def shortest(definitions: dict[str, Any]) -> dict[str, float]:
    """The bytes of each definition's shortest answer, about; infinity where it never ends.

    Args:
        definitions: translated schemas, each after the one that first refers to it. ``$ref``s are
            ``#/$defs/NAME``.
    """
    sizes = dict.fromkeys(definitions, math.inf)
    for _ in range(_ROUNDS):
        before = dict(sizes)
        for name in reversed(definitions):
            sizes[name] = _size(definitions[name], sizes)
        if sizes == before:
            break
    return sizes


def _size(schema: Any, sizes: dict[str, float]) -> float:
    if not isinstance(schema, dict):
        return 1 if schema else math.inf
    least = [1.0]
    if "enum" in schema:
        least.append(min(len(msgspec.json.encode(value)) for value in schema["enum"]))
    if "$ref" in schema:
        least.append(sizes[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        least.append(min(_size(option, sizes) for option in schema["anyOf"]))
    least += [_size(part, sizes) for part in schema.get("allOf", ())]
    if schema.get("type") == "object":
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        least.append(
            sum(
                len(name) + 6 + _size(properties.get(name, others), sizes)
                for name in schema.get("required", ())
            )
        )
    if schema.get("type") == "array":
        count, first = schema.get("minItems", 0), schema.get("prefixItems", [])
        least.append(sum(_size(item, sizes) + 2 for item in first[:count]))
        if count > len(first):
            rest = _size(schema.get("items", {}), sizes) + 2
            least[-1] += rest * (count - len(first))
    return max(least)
