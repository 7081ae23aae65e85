"""Other spellings of a JSON Schema are read as the one of draft 2020-12."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.encoding.json_reading import read, without_booleans

STRING, NUMBER = {"type": "string"}, {"type": "number"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"items": [STRING, True]}, {"prefixItems": [STRING, True]}),
        (
            {"items": [STRING], "additionalItems": False},
            {"prefixItems": [STRING], "items": False},
        ),
        ({"items": STRING, "additionalItems": False}, {"items": STRING}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": False}, STRING),
        ({"enum": [1], "nullable": True}, {"anyOf": [{"enum": [1]}, {"type": "null"}]}),
        ({"propertyNames": STRING}, {}),
        ({"propertyNames": {}}, {}),
        ({"propertyNames": {"pattern": "a"}}, {"propertyNames": {"pattern": "a"}}),
        ({"items": STRING, "uniqueItems": False}, {"items": STRING}),
        ({"items": STRING, "uniqueItems": True, "maxItems": 1}, {"items": STRING, "maxItems": 1}),
        (
            {"items": {"enum": [1, 2]}, "uniqueItems": True},
            {"enum": [[], [1], [2], [1, 2], [2, 1]]},
        ),
        (
            {"properties": {"a": {"properties": {"b": {"type": "string", "nullable": True}}}}},
            {"properties": {"a": {"properties": {"b": {"type": ["string", "null"]}}}}},
        ),
        (
            {"properties": {"nullable": STRING, "items": NUMBER}},
            {"properties": {"nullable": STRING, "items": NUMBER}},
        ),
        (
            {"enum": [{"items": [1], "nullable": True}]},
            {"enum": [{"items": [1], "nullable": True}]},
        ),
        ({"const": {"nullable": True}}, {"const": {"nullable": True}}),
        (True, True),
    ],
)
def test_a_schema_is_read_as_it_is_meant(written: Any, meant: Any) -> None:
    assert read(written) == meant


def test_what_can_not_be_listed_stays() -> None:
    schema = {"items": STRING, "uniqueItems": True}
    assert read(schema) == schema


@pytest.mark.parametrize(
    ("schema", "objects"),
    [
        ({"properties": {"a": True, "b": False}}, {"properties": {"a": {}}}),
        ({"items": True}, {"items": {}}),
        ({"items": False, "prefixItems": [True, False]}, {"prefixItems": [{}]}),
        ({"anyOf": [True, STRING]}, {"anyOf": [{}, STRING]}),
        ({"additionalProperties": False}, {"additionalProperties": False}),
        (
            {"additionalProperties": {"properties": {"a": True}}},
            {"additionalProperties": {"properties": {"a": {}}}},
        ),
        ({"const": True, "default": False}, {"const": True, "default": False}),
    ],
)
def test_llama_cpp_gets_objects_where_schemas_are_true_or_false(
    schema: dict[str, Any], objects: dict[str, Any]
) -> None:
    assert without_booleans(schema) == objects


_schemas = st.recursive(
    st.sampled_from([True, STRING, NUMBER, {"enum": [1, "a"]}, {}]),
    lambda inner: st.one_of(
        st.builds(lambda one: {"items": one}, inner),
        st.builds(lambda one: {"properties": {"a": one}}, inner),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.builds(
            lambda one: {"items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": one},
            st.integers(0, 2),
        ),
    ),
    max_leaves=5,
)
_values = st.recursive(
    st.sampled_from([None, 1, 2, "a"]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.just("a"), inner)),
    max_leaves=6,
)


@given(_schemas, _values)
def test_what_a_schema_allows_after_reading_it_allowed_before(schema: Any, value: Any) -> None:
    validator = jsonschema.Draft202012Validator
    if validator(read(schema)).is_valid(value):
        assert validator(schema).is_valid(value)
