"""pydantic's complaints in words for the caller: what is accepted, nothing of how it is checked."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

from reverie.http.request.schema import PATTERNS

_WORDS = {
    "extra_forbidden": "This field is not known",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "string_type": "Input should be a string",
    "bool_type": "Input should be true or false",
    "int_type": "Input should be a whole number",
    "int_from_float": "Input should be a whole number",
    "int_parsing_size": "Input should be a whole number of at most 64 bits",
    "float_type": "Input should be a number",
    "finite_number": "Input should be a number, and not an infinite one",
    "greater_than": "Input should be more than {gt}",
    "greater_than_equal": "Input should be {ge} or more",
    "less_than_equal": "Input should be {le} or less",
    "string_too_short": "String should have {min_length} or more characters",
    "string_too_long": "String should have {max_length} or fewer characters",
    "too_short": "List should have {min_length} or more items",
    "too_long": "List should have {max_length} or fewer items",
}
"""What isn't here is said well enough by pydantic, or by ``http.request.schema`` itself."""


def in_words(mistake: ErrorDetails) -> str:
    """One complaint, without a full stop; it never repeats the value."""
    context = mistake.get("ctx", {})
    if mistake["type"] == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    words = _WORDS.get(mistake["type"])
    if words is None:
        return mistake["msg"]
    return words.format(**{name: _plain(bound) for name, bound in context.items()})


def _plain(bound: Any) -> Any:
    """A bound as a person writes it: 2, where pydantic holds 2.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
