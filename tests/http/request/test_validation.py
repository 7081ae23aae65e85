"""What a caller reads of a mistake: what is accepted, in plain words. Rules: ``test_body``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.errors import InvalidRequest
from reverie.http.request.body import parse_one as parse

USER = {"role": "user", "content": "Hello"}
NAME = "Input should be 1 to 64 characters out of a-z, A-Z, 0-9, '_' and '-'"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"messages": []}, "messages: List should have 1 or more items."),
        ({"messages": "hi"}, "messages: Input should be a list."),
        ({"messages": ["hi"]}, "messages.0: Input should be an object."),
        ({"model": 5}, "model: Input should be a string."),
        ({"model": "m" * 201}, "model: String should have 200 or fewer characters."),
        ({"stop": [""]}, "stop.0: String should have 1 or more characters."),
        ({"stop": ["a"] * 5}, "stop: List should have 4 or fewer items."),
        ({"temperature": -1}, "temperature: Input should be 0 or more."),
        ({"temperature": 2.1}, "temperature: Input should be 2 or less."),
        ({"temperature": [1]}, "temperature: Input should be a number."),
        ({"temperature": "1e999"}, "temperature: Input should be 2 or less."),
        ({"top_p": 0}, "top_p: Input should be more than 0."),
        ({"max_tokens": 0}, "max_tokens: Input should be 1 or more."),
        ({"max_tokens": 1.5}, "max_tokens: Input should be a whole number."),
        ({"max_tokens": [1]}, "max_tokens: Input should be a whole number."),
        ({"max_tokens": "1e999"}, "max_tokens: Input should be a number, and not an infinite one."),
        ({"seed": 1e300}, "seed: Input should be a whole number of at most 64 bits."),
        ({"max_tokens": 2**31}, "max_tokens: Input should be 2147483647 or less."),
        ({"stream": "true"}, "stream: Input should be true or false."),
        ({"logit_bias": {"01": 1}}, None),
        (
            {"logit_bias": {str(token): 1 for token in range(1025)}},
            "logit_bias: Object should have 1024 or fewer fields.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            f"tools.0.function.name: {NAME}.",
        ),
        ({"response_format": {"type": "xml"}}, None),
        ({"unknown": 1}, "unknown: This field is not known."),
    ],
)
def test_a_bound_is_said_in_plain_words(given: dict[str, Any], message: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(json.dumps({"messages": [USER], **given}).encode())
    said = caught.value.message
    assert message is None or said == message
    for technical in ("validation", "valid ", "pattern", "^", "equal to"):
        assert technical not in said
