"""Checks the JSON Schemas in a request: valid, bounded, and without outside references."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

# A schema is checked in the event loop, at about 0.1 ms a subschema: these bound its worst stall.
_MAX_SCHEMA_NODES = 2_000
_MAX_SCHEMA_DEPTH = 64
_MAX_SCHEMA_BYTES = 128 * 1024
_MAX_REQUEST_NODES = 5_000
_MAX_MIXED_ITEMS = 256


class SchemaBudget:
    """Checks the JSON Schemas of one request, within a budget for all of them."""

    def __init__(self) -> None:
        self._nodes = 0

    def problem(self, schema: dict[str, Any]) -> str | None:
        """What is wrong with a schema; None if nothing is."""
        nodes = _measure(schema)
        if isinstance(nodes, str):
            return nodes
        self._nodes += nodes
        if self._nodes > _MAX_REQUEST_NODES:
            return "The request's JSON Schemas are too large together"
        encoded = msgspec.json.encode(schema)
        if len(encoded) > _MAX_SCHEMA_BYTES:
            return f"A JSON Schema may have at most {_MAX_SCHEMA_BYTES} bytes"
        return _check(encoded)


def _measure(schema: dict[str, Any]) -> int | str:
    """Count a schema's objects and lists (long ones more than once), or say why it is refused."""
    nodes = 0
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        node, depth = stack.pop()
        nodes += 1 + len(node) // 8
        if nodes > _MAX_SCHEMA_NODES:
            return f"A JSON Schema may have at most {_MAX_SCHEMA_NODES} objects and lists"
        if depth > _MAX_SCHEMA_DEPTH:
            return f"A JSON Schema may be nested at most {_MAX_SCHEMA_DEPTH} levels deep"
        problem = _refused_list(node) if isinstance(node, list) else _refused_reference(node)
        if problem is not None:
            return problem
        children = node.values() if isinstance(node, dict) else node
        stack += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    return nodes


def _refused_list(items: list[Any]) -> str | None:
    """Refuse long lists of mixed items: ``uniqueItems`` compares each of them with every other."""
    if len(items) <= _MAX_MIXED_ITEMS:
        return None
    kinds = {type(item) for item in items}
    if kinds == {str} or kinds <= {int, float}:
        return None
    return f"A list of more than {_MAX_MIXED_ITEMS} items may hold only strings, or only numbers"


def _refused_reference(node: dict[str, Any]) -> str | None:
    for key in ("$ref", "$dynamicRef"):
        target = node.get(key)
        if isinstance(target, str) and not target.startswith("#"):
            return f"{key} may only point into the schema itself ('#…')"
    return None


@lru_cache(maxsize=256)
def _check(encoded: bytes) -> str | None:
    """Check a schema against its draft's meta-schema.

    Cached, since an agent sends the same tools with every turn.
    """
    # Costs 0.1 s, and few requests carry a schema.
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft7Validator, Draft202012Validator, validator_for

    schema = msgspec.json.decode(encoded)
    draft = Draft202012Validator
    if isinstance(schema.get("$schema"), str):
        draft = validator_for(schema, default=draft)
    try:
        # No formats: they would hold patterns, which are ECMAScript's, against Python's grammar.
        draft.check_schema(schema, format_checker=None)
    except SchemaError as error:
        if "$schema" not in schema and Draft7Validator(Draft7Validator.META_SCHEMA).is_valid(
            schema
        ):
            return None  # older drafts have other keywords, such as items as a list
        # Its message repeats the schema: only the place and the violated keyword are passed on.
        place = "/".join(str(part)[:50] for part in list(error.absolute_path)[:10])
        return f"Not a valid JSON Schema: at '#/{place}', against '{error.validator}'"
    except RecursionError:
        return "Not a valid JSON Schema: it is nested too deeply"
    return None
