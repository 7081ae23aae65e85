"""Texts that others wrote."""

from __future__ import annotations

import pytest

from reverie.text import printable, require_printable


@pytest.mark.parametrize("text", ["a\0", "\x1b[31m", "a\nb", "\u202e", "\ud800"])
def test_control_characters_are_refused_and_never_shown(text: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        require_printable(text)
    assert printable(text).isprintable()
    assert printable(text) != text


def test_what_is_shown_is_short() -> None:
    assert printable("x" * 64) == "x" * 64
    assert printable("x" * 65) == "x" * 64 + "…"
    assert len(printable("\x1b" * 10**6)) == 65
    assert require_printable("Ünïcode 模型") == printable("Ünïcode 模型") == "Ünïcode 模型"
