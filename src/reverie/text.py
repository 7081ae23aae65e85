"""Untrusted text on its way to a terminal or a log."""

from __future__ import annotations

_MAX_LENGTH = 64


def require_printable(text: str) -> str:
    """Return ``text`` unchanged.

    Raises:
        ValueError: it has control characters, which a terminal would obey.
    """
    if not text.isprintable():
        raise ValueError("must not have control characters")
    return text


def printable(text: str) -> str:
    """``text`` with control characters escaped, cut at 64 characters."""
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: _MAX_LENGTH + 1]
    )
    return escaped if len(escaped) <= _MAX_LENGTH else escaped[:_MAX_LENGTH] + "…"
