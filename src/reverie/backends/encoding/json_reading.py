"""JSON Schemas as people and their libraries write them → one spelling, that of draft 2020-12.

``items`` as a list (drafts up to 2019-09) becomes ``prefixItems``, and OpenAPI's ``nullable`` a
type of its own. What says nothing is left out: a name is always a string, so
``propertyNames: {"type": "string"}`` is.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "contains", "not", "if", "then", "else"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)
_NAMES_THAT_ARE_STRINGS: tuple[Any, ...] = (True, {}, {"type": "string"})
_MOST_DISTINCT = 4
"""Values of which all arrays without repetition are listed: 65 of them."""


def read(node: Any) -> Any:
    """A schema, in one spelling; what isn't one stays as it is."""
    if not isinstance(node, dict):
        return node
    new = {key: _value(key, value) for key, value in node.items()}
    if isinstance(node.get("items"), list):
        del new["items"]
        new["prefixItems"] = [read(one) for one in node["items"]]
        if "additionalItems" in node:
            new["items"] = read(node["additionalItems"])
    new.pop("additionalItems", None)
    if new.get("propertyNames") in _NAMES_THAT_ARE_STRINGS:
        new.pop("propertyNames", None)
    if isinstance(new.get("nullable"), bool) and new.pop("nullable"):
        new = _with_null(new)
    return _distinct(new) if "uniqueItems" in new else new


def _value(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, dict):
        return {name: read(schema) for name, schema in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [read(schema) for schema in value]
    return read(value) if key in _SINGLE else value


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type")
    if "enum" in schema or "const" in schema or not isinstance(kinds, str | list):
        return {"anyOf": [schema, {"type": "null"}]}
    listed = [kinds] if isinstance(kinds, str) else kinds
    return {**schema, "type": listed if "null" in listed else [*listed, "null"]}


def _distinct(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without ``uniqueItems``, where that says nothing or its arrays can be listed."""
    rest = {key: value for key, value in schema.items() if key != "uniqueItems"}
    most = schema.get("maxItems")
    if schema["uniqueItems"] is not True or (isinstance(most, int) and most <= 1):
        return rest
    items = schema.get("items")
    values = items.get("enum") if isinstance(items, dict) else None
    only = set(rest) <= {"type", "items", "minItems", "maxItems", "title", "description", "default"}
    if not (only and isinstance(values, list) and len(values) <= _MOST_DISTINCT):
        return schema
    least = schema.get("minItems", 0)
    lengths = range(least, min(len(values), len(values) if most is None else most) + 1)
    return {"enum": [list(one) for length in lengths for one in permutations(values, length)]}


def without_booleans(node: Any) -> Any:
    """A schema that ``read`` gave, in which none below the root is true or false.

    llama.cpp's reading of the tools that may be called knows objects alone. True becomes ``{}``,
    and what is false is left out: no call is held to it there.
    """
    if not isinstance(node, dict):
        return node
    new: dict[str, Any] = {}
    for key, value in node.items():
        if key in _MAPS and isinstance(value, dict):
            new[key] = {name: _object(one) for name, one in value.items() if one is not False}
        elif key in _LISTS and isinstance(value, list):
            new[key] = [_object(one) for one in value if one is not False]
        elif key not in _SINGLE or key == "additionalProperties":
            new[key] = without_booleans(value) if key in _SINGLE else value
        elif value is not False:
            new[key] = _object(value)
    return new


def _object(schema: Any) -> Any:
    return {} if schema is True else without_booleans(schema)
