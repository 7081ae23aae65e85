"""Which options of a ``oneOf`` are known to exclude each other."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.encoding.json_overlap import exclusive


def tagged(tag: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": tag}, **more}, "required": ["kind"]}


def same(schema: Any) -> Any:
    return schema


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "integer"}, {"type": ["string", "null"]}],
        [{"enum": [1, "1"]}, {"const": True}],
        [{"const": 1}, {"type": "object"}],
        [tagged("cat"), tagged("dog"), tagged("cow")],
        [{"type": "string"}, False],
    ],
)
def test_options_that_differ_in_type_value_or_tag_exclude_each_other(options: list[Any]) -> None:
    assert exclusive(options, same)


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"enum": [1, 2]}, {"const": 2.0}],
        [{"const": [1]}, {"const": [2]}],
        [{"const": 1}, {"type": "integer"}],
        [{}, {"type": "null"}],
        [tagged("cat"), tagged("dog"), tagged("cat", lives={})],
        [{**tagged("cat"), "required": []}, {**tagged("dog"), "required": []}],
        [{"properties": {"a": {"const": 1}}, "required": ["a"]}, tagged("dog")],
    ],
)
def test_options_that_may_overlap_are_not_exclusive(options: list[Any]) -> None:
    assert not exclusive(options, same)


def test_long_lists_of_values_are_compared() -> None:
    options = [{"enum": [f"{i}-{j}" for j in range(300)]} for i in range(64)]
    assert exclusive(options, same)
    assert not exclusive([*options, {"const": "63-299"}], same)


def test_references_are_followed() -> None:
    schemas = {"#/a": tagged("cat"), "#/b": tagged("dog")}
    options = [{"$ref": "#/a"}, {"$ref": "#/b"}]
    assert exclusive(options, lambda schema: schemas.get(schema.get("$ref"), schema))


OPTION = st.recursive(
    st.sampled_from(
        [{}, False, {"type": "integer"}, {"type": ["string", "null"]}, {"const": 1},
         {"enum": [1, True]}, {"enum": ["a", [1], {}]}]
    ),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
         "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True)},
        optional={"type": st.just("object")},
    ),
    max_leaves=4,
)  # fmt: skip
VALUE = st.recursive(
    st.sampled_from([None, True, 1, 1.0, 2, "a", [1], {}]),
    lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(one=OPTION, other=OPTION, value=VALUE)
def test_no_value_is_valid_against_two_exclusive_options(one: Any, other: Any, value: Any) -> None:
    if exclusive([one, other], same):
        valid = [jsonschema.Draft202012Validator(option).is_valid(value) for option in (one, other)]
        assert valid != [True, True]
