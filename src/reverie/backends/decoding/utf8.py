"""Mends characters that an engine cut in two.

An engine streams tokens, and a token may hold a part of a character. Most engines wait for the
rest; some send the part: as bytes that aren't UTF-8 inside a JSON string, or as one half of a
surrogate pair (``"\\ud83d"``). Both halves then come in different events.

Rule: a character is handed on once it is whole; one that never becomes whole is U+FFFD.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# "surrogateescape" stands U+DC80..U+DCFF for the bytes 80..FF; every other surrogate is an escape
# without its other half.
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Mender:
    """Mends one text that arrives in pieces, such as a message's content."""

    __slots__ = ("_decoder", "_half")

    def __init__(self) -> None:
        self._decoder = _new_decoder("replace")
        self._half = ""  # a high surrogate that waits for its low one

    @property
    def holds(self) -> bool:
        """Whether a character's beginning waits for its rest."""
        return bool(self._half or self._decoder.getstate()[0])

    def mend(self, piece: str) -> str:
        """What can be handed on once ``piece``, as ``loads_damaged`` gives it, has arrived."""
        joined = (self._half + piece).encode("utf-16-le", "surrogatepass")
        text = joined.decode("utf-16-le", "surrogatepass")
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        if self._half:
            text = text[:-1]
        text = _HALVES.sub(_REPLACEMENT, text)
        return self._decoder.decode(text.encode("utf-8", "surrogateescape"))

    def flush(self) -> str:
        """What is left when nothing more comes."""
        rest = self._decoder.decode(b"", final=True)
        rest += _REPLACEMENT if self._half else ""
        self._half = ""
        self._decoder.reset()
        return rest


def loads_damaged(payload: bytes) -> Any:
    """Parse JSON whose strings may hold cut characters; a byte that is none becomes a surrogate.

    Raises:
        ValueError: it isn't JSON for another reason.
    """
    return json.loads(payload.decode("utf-8", "surrogateescape"))


def replace_damaged(text: str) -> str:
    """The text with U+FFFD for everything that isn't a character."""
    return _SURROGATES.sub(_REPLACEMENT, text)
