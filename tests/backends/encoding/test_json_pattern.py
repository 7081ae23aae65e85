"""Patterns are kept where every engine reads them alike, and refused elsewhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.encoding.json_pattern import plain, portable, without_lookahead


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a",
        "^a|b$",
        "(?:^a$|^b$)",
        r"^[A-Z]{2}-\d{1,3}x?$",
        r"[\w.-]+@\w{2,}",
        r"^\S+\/\x41\u0041$",
        '^[^"]*?$',
        "é",
    ],
)
def test_what_all_read_alike_is_kept(pattern: str) -> None:
    assert portable(pattern) == pattern


def test_a_dot_matches_no_end_of_line() -> None:
    kept = portable("^.$")
    assert kept is not None
    assert re.search(kept, "x")
    assert not any(re.search(kept, end) for end in "\n\r\u2028\u2029")
    assert portable(r"\.[.]") == r"\.[.]"


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\k<a>", r"\bword", r"a\B", "a^b",
        "a$b", "^*", "(?i)a", "(?<name>a)", "(?P<name>a)", "[[a]]", "[a&&b]", "[a--b]", "[a||b]",
        "[a~~b]", "[]", "[^]", "[a", "[z-a]", "(a", "a)", "a**", "a++", "*a", "{", "a{,3}",
        "a{3,2}", "a}", r"\p{L}", r"\a", r"\cA", r"\<", r"\ud83d", "a" * 2_001, "\\",
    ],
)  # fmt: skip
def test_what_an_engine_cannot_do_or_misreads_is_refused(pattern: str) -> None:
    assert portable(pattern) is None


@pytest.mark.parametrize("pattern", ["^abc$", "^[a-z]{2}[0-9_-]+$", "^a b?$"])
def test_llamacpps_own_converter_is_trusted_with_plain_patterns(pattern: str) -> None:
    assert plain(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["abc", "^abc", "^.$", r"^\d$", "^[^a]$", "^[ -z]$", "^a|b$", '^"$', "^(a)$"]
)
def test_llamacpps_own_converter_is_not_trusted_with_others(pattern: str) -> None:
    assert plain(pattern) is None


@given(st.text("ab.^$*+?(){}|[]\\d1,-&:=!<", max_size=12))
def test_a_kept_pattern_means_no_more_than_it_did(pattern: str) -> None:
    kept = portable(pattern)
    if kept is None:
        return
    for text in ("", "a", "ab", "1", "b1\r", "aab", "a-b"):
        assert not re.search(kept, text) or re.search(pattern, text)


ZOD = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
    r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
DECIMALS = (
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"^(?!^[-+.]*$)[+-]?0*\d{0,3}(?:\.\d{0,2}0*)?$",
    r"^(?!^[-+.]*$)[+-]?0*\d{0,0}(?:\.\d{0,2}0*)?$",
)


@pytest.mark.parametrize("pattern", [ZOD, *DECIMALS])
@given(st.text("aB0.-+_'@ ", max_size=12))
def test_a_known_look_ahead_is_left_out_and_allows_no_more_then(pattern: str, text: str) -> None:
    new = portable(without_lookahead(pattern))
    assert new is not None
    if re.search(new, text):
        assert re.search(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (ZOD, "tom.o'cat+x@mail.example.org"),
        (ZOD, "a@b.co"),
        (DECIMALS[0], "-12.50"),
        (DECIMALS[1], "999.99"),
        (DECIMALS[2], "0.25"),
    ],
)
def test_what_such_a_pattern_is_for_stays_allowed(pattern: str, text: str) -> None:
    assert re.search(without_lookahead(pattern), text)
    assert re.search(pattern, text)


def test_any_other_look_ahead_stays_and_is_refused() -> None:
    assert portable(without_lookahead("^(?=a)a$")) is None
