"""Paths as people write them → the one by which a route is known."""

from __future__ import annotations

import re

_SLASHES = re.compile("//+")


def normal(path: str) -> str:
    """The path without doubled slashes and without one at the end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"
