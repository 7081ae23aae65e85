"""The length of the shortest answer that a JSON Schema allows.

Where a schema leaves no choice, LLGuidance computes the text ahead. Past some 75,000 bytes, or
where a schema requires itself endlessly, it gives up in mid-answer, in silence, and the model
goes on unconstrained.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

_ROUNDS = 64
"""Bounds the work on hostile references. Ordinary ones settle in two or three rounds."""


def shortest(definitions: dict[str, Any]) -> dict[str, float]:
    """Roughly the bytes of each definition's shortest answer; infinity where there is none.

    Args:
        definitions: translated schemas, each after the one that first refers to it, so that few
            rounds settle them. Each ``$ref`` is ``#/$defs/NAME``.
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
