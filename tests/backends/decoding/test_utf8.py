"""Characters that an engine split come out whole."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.decoding.utf8 import CharacterJoiner, loads_lenient, replace_surrogates


def joined(*pieces: bytes) -> str:
    joiner = CharacterJoiner()
    text = "".join(joiner.feed(loads_lenient(b'"' + piece + b'"')) for piece in pieces)
    return text + joiner.flush()


@given(st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs", "Cc"])), st.data())
def test_raw_bytes_cut_anywhere(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    bounds = [0, *cuts, len(whole)]
    assert joined(*(whole[a:b] for a, b in pairwise(bounds))) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escapes_cut_between_any_two(text: str) -> None:
    units = [f"\\u{unit:04x}".encode() for unit in memoryview(text.encode("utf-16-le")).cast("H")]
    assert joined(*units) == text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"\xf0\x9f", b"x"], "\ufffdx"),
        ([b"x\xf0\x9f\x98"], "x\ufffd"),
        ([b"\x80", b"x"], "\ufffdx"),
        ([b"\\ud83d", b"x"], "\ufffdx"),
        ([b"a\\ud83d"], "a\ufffd"),
        ([b"\\ude00", b"b"], "\ufffdb"),
        ([b"\\ud83d", b"\\ud83d\\ude00"], "\ufffd\U0001f600"),
        ([b"\\ud83d", b"", b"\\ude00!"], "\U0001f600!"),
    ],
)
def test_what_never_becomes_whole_is_replaced(pieces: list[bytes], text: str) -> None:
    assert joined(*pieces) == text


def test_text_before_a_cut_character_is_not_held_with_it() -> None:
    joiner = CharacterJoiner()
    assert joiner.feed(loads_lenient(b'"abc\xe2\x82"')) == "abc"
    assert joiner.pending
    assert joiner.feed("\udcac!") == "\N{EURO SIGN}!"
    assert not joiner.pending


def test_replacing_gives_text_that_can_be_sent() -> None:
    assert replace_surrogates("a\udcf0\ud83db") == "a\ufffd\ufffdb"


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"{'a':1}"])
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads_lenient(payload)
