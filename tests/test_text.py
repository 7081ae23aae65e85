"""Texts that others wrote."""

from __future__ import annotations

import pytest

from reverie.text import require_printable, shown


@pytest.mark.parametrize("text", ["a\0", "\x1b[31m", "a\nb", "\u202e", "\ud800"])
def test_control_characters_are_refused_and_never_shown(text: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        require_printable(text)
    assert shown(text).isprintable()
    assert shown(text) != text


def test_what_is_shown_is_short() -> None:
    assert shown("x" * 64) == "x" * 64
    assert shown("x" * 65) == "x" * 64 + "…"
    assert len(shown("\x1b" * 10**6)) == 65
    assert require_printable("Ünïcode 模型") == shown("Ünïcode 模型") == "Ünïcode 模型"
