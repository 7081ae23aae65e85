"""Paths as people write them → the one by which a route is known."""

from __future__ import annotations

import re

_SLASHES = re.compile("//+")


def normal(path: str) -> str:
    """The path without doubled slashes and without one at the end.

    A newline stays escaped: at a path's end, a route's pattern would take it for the end, where a
    proxy that keeps the route from others sees another path.
    """
    return _SLASHES.sub("/", path.replace("\n", "%0A")).rstrip("/") or "/"
