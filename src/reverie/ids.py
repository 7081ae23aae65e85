"""Random ids. Nobody can guess one, so that some may serve as secrets: kept answers are found by
theirs.
"""

from __future__ import annotations

import os

_BYTES = 16
_AT_ONCE = 256
"""Ids whose bytes are asked of the system together: it takes as long as for a single one."""

_ready: list[str] = []


def random_id() -> str:
    """32 hexadecimal digits that nobody had before. Threads may call it."""
    try:
        return _ready.pop()
    except IndexError:
        digits = os.urandom(_BYTES * _AT_ONCE).hex()
        width = 2 * _BYTES
        new = [digits[begin : begin + width] for begin in range(0, len(digits), width)]
        last = new.pop()
        _ready.extend(new)
        return last
