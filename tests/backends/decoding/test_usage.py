"""What engines say of tokens, made to add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding.usage import MAX_TOKENS, Counts, read_counts


def counts(prompt: Any = None, completion: Any = None, total: Any = None, **more: Any) -> Any:
    told = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return read_counts({**told, **more})


@pytest.mark.parametrize(
    ("told", "prompt", "completion"),
    [
        ((7, 3, 10), 7, 3),
        ((7, 3, None), 7, 3),
        ((7, 3, 9), 7, 3),  # parts that exceed the whole: the parts are told apart
        ((7, 3, 110), 7, 103),  # thinking that only the total shows
        ((7, 0, 110), 7, 103),
        ((0, 3, 10), 7, 3),
        ((7.0, "3", 10.0), 7, 3),
    ],
)
def test_the_parts_add_up_to_the_whole(told: Any, prompt: int, completion: int) -> None:
    assert counts(*told) == Counts(prompt, completion)


@pytest.mark.parametrize(
    "wrong", [-1, 1.5, True, "x", [], {}, float("nan"), MAX_TOKENS + 1, 10**30]
)
def test_what_can_not_be_a_count_is_none(wrong: Any) -> None:
    assert counts(wrong, 3) is None
    assert counts(3, wrong) is None
    assert counts(7, 3, wrong) == Counts(7, 3)


@pytest.mark.parametrize("nothing", [(0, 0, 0), (None, None, None)])
def test_zeros_are_no_counts(nothing: Any) -> None:
    assert counts(*nothing) is None


def test_reasoning_beyond_the_completion_is_part_of_it() -> None:
    beyond = counts(7, 3, completion_tokens_details={"reasoning_tokens": 100})
    assert (beyond.completion, beyond.completion_details) == (103, {"reasoning_tokens": 100})
    within = counts(7, 103, 110, completion_tokens_details={"reasoning_tokens": 100})
    assert within.completion == 103


def test_cached_tokens_that_were_left_out_of_the_prompt_are_part_of_it() -> None:
    left_out = counts(7, 3, 60, prompt_tokens_details={"cached_tokens": 50})
    assert (left_out.prompt, left_out.completion, left_out.cached) == (57, 3, 50)


def test_cached_tokens_that_were_told_before_are_part_of_what_is_told_later() -> None:
    later = counts(7, 3, prompt_tokens_details={"cached_tokens": 5}).with_later(counts(4, 4))
    assert (later.prompt, later.completion, later.cached) == (4, 4, 4)


def test_details_keep_the_engines_names_and_hold_counts_only() -> None:
    details = {"a_tokens": 1, "b": None, "c": -1, "D!": 2, "e": {"x": 1}, "f": "4"}
    told = counts(7, 3, completion_tokens_details=details)
    assert told.completion_details == {"a_tokens": 1, "f": 4}
    many = {f"x{number}": 1 for number in range(100)}
    assert len(counts(7, 3, completion_tokens_details=many).completion_details) == 16


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"]
        ),
        st.one_of(
            st.integers(-5, 2**32),
            st.floats(),
            st.none(),
            st.text(max_size=3),
            st.dictionaries(st.sampled_from(["cached_tokens", "x"]), st.integers(-5, 2**32)),
        ),
    )
)
def test_whatever_is_told_counts_are_counts(told: dict[str, Any]) -> None:
    read = read_counts(told)
    if read is not None:
        assert 0 <= read.cached <= read.prompt <= MAX_TOKENS
        assert 0 <= read.completion <= MAX_TOKENS
        assert read.prompt or read.completion
