"""A plain request becomes what the whole check makes of it; all else is left to that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import ReverieError
from reverie.http.request import body
from reverie.http.request.plain import parse_plain
from reverie.request import GenerateRequest

ASK = [{"role": "user", "content": "Hi"}]


def checked(raw: bytes) -> list[GenerateRequest] | str:
    """What the whole check makes of a body, or of its mistakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "parse_plain", lambda _: None)
        try:
            return body.parse(raw)
        except ReverieError as error:
            return str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "m", "temperature": 0, "max_tokens": 64, "stream": False, "seed": 5},
        {"stream": True, "stream_options": {"include_usage": True}, "top_k": -1, "top_p": 1},
        {"max_completion_tokens": 7, "stop": "x", "min_p": 0.5, "presence_penalty": -2},
        {"stop": ["a", "b"], "frequency_penalty": 2, "repetition_penalty": 1.5},
        {"stop": []},
        {
            "messages": [
                {"role": "system", "content": ""},
                *ASK,
                {"role": "assistant", "content": "é"},
            ]
        },
    ],
)
def test_a_plain_request_is_read_at_once(fields: dict[str, Any]) -> None:
    raw = msgspec.json.encode({"messages": ASK, **fields})
    plain = parse_plain(raw)
    assert plain is not None
    assert checked(raw) == [plain]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"user": "me"},
        {"temperature": "0.5"},
        {"temperature": None},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"stream_options": {"include_usage": True}},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "4", "tool_call_id": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    ],
)
def test_what_is_not_plain_is_left_to_the_whole_check(fields: dict[str, Any]) -> None:
    assert parse_plain(msgspec.json.encode({"messages": ASK, **fields})) is None


_NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.floats(-3, 12),
    st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 1e300]),
)
_VALUES = st.one_of(
    _NUMBERS,
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.lists(st.text(max_size=2), max_size=5),
)
_NAMES = st.sampled_from(
    [
        "model", "temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "min_p",
        "stream", "seed", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "unknown",
    ]
)  # fmt: skip


@given(st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_whatever_is_read_at_once_is_what_the_whole_check_makes_of_it(
    fields: dict[str, Any],
) -> None:
    raw = msgspec.json.encode({"messages": ASK, **fields})
    plain = parse_plain(raw)
    assert plain is None or checked(raw) == [plain]
