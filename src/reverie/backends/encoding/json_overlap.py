"""Whether the options of a ``oneOf`` exclude each other, as far as that is plain to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeAlias

_TYPES = ("null", "boolean", "number", "string", "array", "object")

Resolve: TypeAlias = Callable[[Any], Any]
"""Gives the schema that a reference points to; any other schema as it is."""


@dataclass(slots=True)
class _Outline:
    """What is known of the values that a schema allows.

    Rule: it is made once an option. Options are then compared set by set, so that long lists of
    values cost no more than their length.
    """

    types: set[str]
    values: set[Any] | None = None
    """The only values; None where they aren't listed. All lists count as one value, and so do all
    objects."""
    required: set[str] = field(default_factory=set)
    properties: dict[str, _Outline] = field(default_factory=dict)

    def excludes(self, other: _Outline) -> bool:
        if self.values is not None and other.values is not None:
            return self.values.isdisjoint(other.values)
        if self.types.isdisjoint(other.types):
            return True
        if self.types != {"object"} or other.types != {"object"}:
            return False
        return any(
            self.properties[name].excludes(other.properties[name])
            for name in self.required | other.required
            if name in self.properties and name in other.properties
        )


def exclusive(options: list[Any], resolve: Resolve) -> bool:
    """True if no value is valid against two of the schemas; False if that isn't certain."""
    outlines = [_outline(option, resolve) for option in options]
    return all(one.excludes(other) for one, other in combinations(outlines, 2))


def types_of(schema: dict[str, Any]) -> tuple[str, ...]:
    """The types that a schema's ``type`` allows; none if it isn't a sound one."""
    if "type" not in schema:
        return _TYPES
    named = schema["type"]
    kinds = tuple(named) if isinstance(named, list) else (named,)
    sound = all(isinstance(kind, str) and kind in (*_TYPES, "integer") for kind in kinds)
    return tuple(dict.fromkeys(kinds)) if sound else ()


def fits(value: Any, kinds: tuple[str, ...]) -> bool:
    """True if a value has one of the types."""
    return _type(value) in kinds or ("integer" in kinds and is_number(value) and value % 1 == 0)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _outline(schema: Any, resolve: Resolve, *, deep: bool = True) -> _Outline:
    """An outline of a schema, with its properties' outlines if ``deep``."""
    schema = resolve(schema)
    if schema is False:
        return _Outline(set(), set())
    if not isinstance(schema, dict):
        return _Outline(set(_TYPES))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        kept = {(_type(value), None if _nested(value) else value) for value in values}
        return _Outline({kind for kind, _ in kept}, kept)
    outline = _Outline({"number" if kind == "integer" else kind for kind in types_of(schema)})
    required, properties = schema.get("required"), schema.get("properties")
    if deep and isinstance(required, list):
        outline.required = {name for name in required if isinstance(name, str)}
    if deep and isinstance(properties, dict):
        outline.properties = {
            name: _outline(below, resolve, deep=False) for name, below in properties.items()
        }
    return outline


def _nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if is_number(value):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
