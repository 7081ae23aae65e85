"""Joins characters that an engine split between two chunks.

An engine streams tokens, and a token may hold part of a character. Most engines wait for the rest.
Some send the part, as bytes that aren't UTF-8 inside a JSON string, or as one half of a surrogate
pair (``"\\ud83d"``); the rest then follows in the next chunk.

Rule: a character is passed on once it is complete; one that never is becomes U+FFFD.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# "surrogateescape" maps the bytes 80..FF to U+DC80..U+DCFF; every other surrogate is an escape
# without its other half.
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")

_new_decoder = codecs.getincrementaldecoder("utf-8")


class CharacterJoiner:
    """Joins the pieces of one text, such as a message's content."""

    __slots__ = ("_decoder", "_half")

    def __init__(self) -> None:
        self._decoder = _new_decoder("replace")
        self._half = ""  # a high surrogate that waits for its low one

    @property
    def pending(self) -> bool:
        """True while part of a character waits for its rest."""
        return bool(self._half or self._decoder.getstate()[0])

    def feed(self, piece: str) -> str:
        """Take a piece, as ``loads_lenient`` gives it; return the complete characters."""
        joined = (self._half + piece).encode("utf-16-le", "surrogatepass")
        text = joined.decode("utf-16-le", "surrogatepass")
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        if self._half:
            text = text[:-1]
        text = _HALVES.sub(_REPLACEMENT, text)
        return self._decoder.decode(text.encode("utf-8", "surrogateescape"))

    def flush(self) -> str:
        """The text has ended: return what is pending, replaced."""
        rest = self._decoder.decode(b"", final=True)
        rest += _REPLACEMENT if self._half else ""
        self._half = ""
        self._decoder.reset()
        return rest


def loads_lenient(payload: bytes) -> Any:
    """Parse JSON with split characters in it; bytes that aren't UTF-8 become surrogates.

    Raises:
        ValueError: it isn't JSON for another reason.
    """
    return json.loads(payload.decode("utf-8", "surrogateescape"))


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for every surrogate."""
    return _SURROGATES.sub(_REPLACEMENT, text)
