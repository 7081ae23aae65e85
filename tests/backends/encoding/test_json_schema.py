"""What of a JSON Schema is kept, narrowed or refused, for each of llama.cpp's converters."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.encoding.json_schema import Converter, translate
from reverie.errors import UnsupportedParameter

NAME = {"type": "string"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}
CONVERTERS: tuple[Converter, ...] = get_args(Converter)


def refused_at(schema: Any, converter: Converter = "llguidance") -> str:
    with pytest.raises(UnsupportedParameter) as caught:
        translate(schema, "s", converter)
    assert caught.value.param is not None
    return caught.value.param


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"properties": {"a": {"not": {}}}}, "s.properties.a.not"),
        ({"contains": {}}, "s.contains"),
        ({"if": {}}, "s.if"),
        ({"dependentRequired": {}}, "s.dependentRequired"),
        ({"propertyNames": {"pattern": "^a"}}, "s.propertyNames"),
        ({"unevaluatedProperties": False}, "s.unevaluatedProperties"),
        ({"items": {"uniqueItems": True}}, "s.items.uniqueItems"),
        ({"items": [{"not": {}}]}, "s.prefixItems.0.not"),
        ({"pattern": "(?=a)"}, "s.pattern"),
        ({"multipleOf": 0.1}, "s.multipleOf"),
        ({"maximum": 2**60}, "s.maximum"),
        ({"maxItems": 10**9}, "s.maxItems"),
        ({"enum": [2**60]}, "s.enum"),
        ({"type": "string", "enum": [1]}, "s.enum"),
        ({"enum": [1], "minimum": 0}, "s.minimum"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 9}]}, "s.oneOf"),
        ({"oneOf": [CAT, {**CAT, "title": "Cat"}]}, "s.oneOf"),
        ({"anyOf": [{}, {"not": {}}]}, "s.anyOf.1.not"),
        ({"$ref": "https://example.com/s"}, "s.$ref"),
        ({"$ref": "#name"}, "s.$ref"),
        ({"$ref": "#/$defs/a"}, "s.$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, "s.$defs.a.not"),
        ({"items": {"$id": "https://example.com/s"}}, "s.items.$id"),
        ({"type": "object", "minProperties": 2}, "s.minProperties"),
        ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, "s.patternProperties"),
        ({"allOf": [{"multipleOf": 2}, {"multipleOf": 3}]}, "s.allOf.0.multipleOf"),
        (False, "s"),
    ],
)
def test_what_cannot_be_honoured_is_refused_where_it_stands(schema: Any, param: str) -> None:
    assert refused_at(schema) == param


def test_the_message_names_the_keyword() -> None:
    with pytest.raises(UnsupportedParameter, match="unevaluatedItems"):
        translate({"unevaluatedItems": False}, "s", "llguidance")


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "number", "minimum": 1}, "s.minimum"),
        ({"type": "integer", "minimum": 0.5}, "s.minimum"),
        ({"type": "integer", "multipleOf": 2}, "s.multipleOf"),
        ({"type": "string", "pattern": "a"}, "s.pattern"),
        ({"type": "string", "format": "date", "maxLength": 9}, "s.maxLength"),
        ({"type": "array", "prefixItems": [{}]}, "s.prefixItems"),
        ({"type": "object", "maxProperties": 2}, "s.maxProperties"),
        ({"patternProperties": {"a": {}}}, "s.patternProperties"),
        ({"properties": {}, "anyOf": [{}]}, "s.anyOf"),
        ({"allOf": [{}, {}]}, "s.allOf"),
        ({"properties": {}, "required": ["a"]}, "s.required"),
        ({"minimum": 1, "minLength": 1}, "s.type"),
    ],
)
def test_llamacpps_own_converter_is_trusted_with_less(schema: Any, param: str) -> None:
    translate(schema, "s", "llguidance")
    assert refused_at(schema, "gbnf") == param


@pytest.mark.parametrize("converter", CONVERTERS)
def test_annotations_and_extensions_are_left_out(converter: Converter) -> None:
    annotated = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/s",
        "title": "T",
        "description": "D",
        "default": 1,
        "examples": [1],
        "$comment": "C",
        "deprecated": True,
        "readOnly": True,
        "x-guidance": {"lenient": True},
        "type": "integer",
    }
    assert translate(annotated, "s", converter) == {"type": "integer"}


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {"properties": {"not": NAME, "$ref": NAME}, "required": ["not"]}
    assert translate(schema, "s", "llguidance")["properties"] == {"not": NAME, "$ref": NAME}


@pytest.mark.parametrize("schema", [{}, True, {"title": "anything"}])
def test_an_empty_schema_is_any_json(schema: Any) -> None:
    assert translate(schema, "s", "llguidance") == {}


def test_an_object_that_lists_its_properties_is_closed_unless_it_says_otherwise() -> None:
    listed = {"properties": {"a": NAME}}
    assert translate(listed, "s", "llguidance")["additionalProperties"] is False
    opened = translate({**listed, "additionalProperties": True}, "s", "llguidance")
    assert opened["additionalProperties"] == {}
    needs_more = translate({**listed, "required": ["b"]}, "s", "llguidance")
    assert "additionalProperties" not in needs_more


def test_objects_that_are_merged_stay_open() -> None:
    merged = translate({"allOf": [CAT, {"properties": {"a": NAME}}]}, "s", "llguidance")
    assert all("additionalProperties" not in part for part in merged["allOf"])


@pytest.mark.parametrize(
    "options",
    [
        [CAT, DOG],
        [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        [{"type": "null"}, NAME],
        [{"const": 1}, {"enum": [2, "1", True]}],
    ],
)
def test_options_that_exclude_each_other_may_be_one_of(options: list[Any]) -> None:
    schema = {"oneOf": options, "$defs": {"cat": CAT, "dog": DOG}}
    assert "anyOf" in translate(schema, "s", "llguidance")


def test_any_of_beside_one_of_keeps_both() -> None:
    schema = {"anyOf": [{"minimum": 1}, {"minimum": 2}], "oneOf": [{"const": 1}, {"const": 0}]}
    both = translate(schema, "s", "llguidance")
    assert both["allOf"] == [{"anyOf": [{"enum": [1]}, {"enum": [0]}]}]
    assert len(both["anyOf"]) == 2


FOREVER = {"type": "object", "properties": {"a": {"$ref": "#/$defs/r"}}, "required": ["a"]}


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"$ref": "#"}, "s"),
        ({"properties": {"a": {"$ref": "#/$defs/r"}}, "$defs": {"r": FOREVER}}, "s.$defs.r"),
        ({"type": "array", "minItems": 400, "items": {"$ref": "#/$defs/r"},
          "$defs": {"r": {"type": "array", "minItems": 400, "items": {"const": 1}}}}, "s"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_end_soon_is_refused_where_it_is_required(
    schema: Any, param: str, converter: Converter
) -> None:
    assert refused_at(schema, converter) == param


def test_a_long_chain_of_references_is_followed() -> None:
    definitions = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(2_000)}
    schema = {"$ref": "#/$defs/0", "$defs": {**definitions, "2000": {"not": {}}}}
    assert refused_at(schema) == "s.$defs.2000.not"


KEYWORDS = [
    "type", "properties", "required", "items", "enum", "const", "anyOf", "allOf", "oneOf", "$ref",
    "$defs", "minimum", "maxLength", "pattern", "format", "additionalProperties", "multipleOf",
    "patternProperties", "minProperties", "maxProperties", "prefixItems", "uniqueItems", "title",
    "x-y", "not",
]  # fmt: skip
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["object", "string", "integer", "array", "#", "#/$defs/a", "date", "^a$"])
)  # fmt: skip
ANY = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("converter", CONVERTERS)
@given(schema=ANY)
def test_whatever_comes_it_is_translated_or_refused(schema: Any, converter: Converter) -> None:
    with contextlib.suppress(UnsupportedParameter):
        translate(schema, "s", converter)


SCHEMA = st.recursive(
    st.sampled_from(
        [{}, NAME, CAT, {"type": "null"}, {"enum": [1, "a", None]}, {"type": "integer"},
         {"minimum": 3}, {"type": "string", "format": "date"}, {"pattern": "^a"}]
    ),
    lambda inner: (
        st.fixed_dictionaries({"properties": st.fixed_dictionaries({"a": inner, "b": inner})})
        | st.fixed_dictionaries({"items": inner, "maxItems": st.integers(0, 2)})
        | st.builds(lambda key, parts: {key: parts}, st.sampled_from(["anyOf", "oneOf", "allOf"]),
                    st.lists(inner, min_size=1, max_size=2))
        | st.fixed_dictionaries({"additionalProperties": inner, "required": st.just(["a"])})
    ),
    max_leaves=5,
)  # fmt: skip
VALUE = st.recursive(
    st.sampled_from([None, True, 1, 5, 2.5, "a", "b", "2024-02-30", "2024-02-28"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "kind"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("converter", CONVERTERS)
@given(schema=SCHEMA, value=VALUE)
def test_the_translation_allows_no_more_than_the_schema(
    schema: Any, value: Any, converter: Converter
) -> None:
    try:
        narrowed = translate(schema, "s", converter)
    except UnsupportedParameter:
        return
    checker = jsonschema.FormatChecker(["date"])
    if jsonschema.Draft202012Validator(narrowed).is_valid(value):
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)
