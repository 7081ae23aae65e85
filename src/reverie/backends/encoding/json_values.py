"""What is known of the values that a JSON Schema allows: their types, and whether two overlap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TYPES = ("null", "boolean", "number", "string", "array", "object")

_DATE = (
    "[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = (
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOST = f"{_LABEL}([.]{_LABEL}){{0,3}}"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"

FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "email": f"^[A-Za-z0-9_%+-]+([.][A-Za-z0-9_%+-]+)*@{_HOST}$",
    "hostname": f"^{_HOST}$",
    "ipv4": f"^{_BYTE}[.]{_BYTE}[.]{_BYTE}[.]{_BYTE}$",
    "uri": f"^[a-z][a-z0-9+.-]*://{_HOST}(:[0-9]{{1,4}})?(/[A-Za-z0-9._~-]*)*([?][A-Za-z0-9._~=&-]*)?$",
}
"""Each format as a pattern that allows no more than it, and not all of it: no 29th of February,
no URI without a host. It keeps to what both converters of llama.cpp read rightly."""


def types_of(schema: dict[str, Any]) -> tuple[str, ...]:
    """The types that a schema's ``type`` allows; none if it isn't a sound one."""
    if "type" not in schema:
        return TYPES
    named = schema["type"]
    kinds = tuple(named) if isinstance(named, list) else (named,)
    sound = all(isinstance(kind, str) and kind in (*TYPES, "integer") for kind in kinds)
    return tuple(dict.fromkeys(kinds)) if sound else ()


def fits(value: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a value has one of the types."""
    return _type(value) in kinds or ("integer" in kinds and is_number(value) and value % 1 == 0)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def apart(a: Any, b: Any, resolve: Callable[[Any], Any], *, deep: bool = True) -> bool:
    """Whether it is plain to see that no value is valid against both schemas.

    Args:
        resolve: gives a schema for a reference.
        deep: whether objects are told apart by a property that they have in common.
    """
    a, b = resolve(a), resolve(b)
    if not isinstance(a, dict) or not isinstance(b, dict):
        return a is False or b is False
    values, others = _values(a), _values(b)
    if values is not None and others is not None:
        return not any(_same(value, other) for value in values for other in others)
    if not _types(a, values) & _types(b, others):
        return True
    if not deep or _types(a, values) != {"object"} or _types(b, others) != {"object"}:
        return False
    mine, theirs = _properties(a), _properties(b)
    return any(
        apart(mine[name], theirs[name], resolve, deep=False)
        for name in _required(a) | _required(b)
        if name in mine and name in theirs
    )


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


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The only values that a schema allows, if it lists them."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _same(value: Any, other: Any) -> bool:
    """Whether two values may be equal; with lists and objects one isn't sure."""
    if _type(value) != _type(other):
        return False
    return isinstance(value, list | dict) or bool(value == other)


def _types(schema: dict[str, Any], values: list[Any] | None) -> set[str]:
    if values is not None:
        return {_type(value) for value in values}
    return {"number" if kind == "integer" else kind for kind in types_of(schema)}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _required(schema: dict[str, Any]) -> set[str]:
    required = schema.get("required")
    return (
        {name for name in required if isinstance(name, str)}
        if isinstance(required, list)
        else set()
    )
