"""What must not stand in a gateway's log, whatever goes wrong around it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable

_NEVER = ("a request failed in Reverie itself", "a settlement can't be kept")
_EXPECTED = frozenset(
    {
        "the store fails",  # it was stopped
        "background work failed",  # what needs the store
        "worker died",  # it was killed
    }
)


def faults(lines: Iterable[str]) -> list[str]:
    """The lines that tell of a fault of Reverie's own."""
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            if line.strip():  # nothing else writes there
                found.append(line.rstrip())
            continue
        message = str(entry.get("message", ""))
        is_error = entry.get("level") in ("error", "critical") and message not in _EXPECTED
        if is_error or any(words in message for words in _NEVER):
            found.append(line.rstrip()[:1000])
    return found
