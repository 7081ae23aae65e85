"""How text is written for others: what isn't trusted for a terminal or a log, and hosts in URLs."""

from __future__ import annotations

import re

_MAX_LENGTH = 64
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^/\s:]+/)*(?=[^/\s])")
"""The folders of a path, and nothing of a URL."""


def require_printable(text: str) -> str:
    """Return ``text`` unchanged.

    Raises:
        ValueError: it has control characters, which a terminal would obey.
    """
    if not text.isprintable():
        raise ValueError("must not have control characters")
    return text


def without_folders(text: str) -> str:
    """``text`` with each path in it cut to its last part, for those who aren't on this machine."""
    return _FOLDERS.sub("", text)


def printable(text: str) -> str:
    """``text`` with control characters escaped, cut at 64 characters."""
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: _MAX_LENGTH + 1]
    )
    return escaped if len(escaped) <= _MAX_LENGTH else escaped[:_MAX_LENGTH] + "…"


def in_url(host: str) -> str:
    """A host as URLs and ``HOST:PORT`` have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
