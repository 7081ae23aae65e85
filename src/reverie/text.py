"""Texts that others wrote, on their way to a terminal or a log."""

from __future__ import annotations

_MOST = 64


def require_printable(text: str) -> str:
    """Give ``text`` back.

    Raises:
        ValueError: it has control characters, which would have their own way with a terminal.
    """
    if not text.isprintable():
        raise ValueError("must not have control characters")
    return text


def shown(text: str) -> str:
    """``text`` with its control characters escaped, and cut at 64 characters."""
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: _MOST + 1]
    )
    return escaped if len(escaped) <= _MOST else escaped[:_MOST] + "…"
