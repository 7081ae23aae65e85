"""What the chunks of one answer share: all but the text of each.

An engine repeats its id, its model and all else in every chunk. Once one of them is known, the
texts of those that follow are cut out of their bytes, and nothing else is parsed again.

Rule 1: what this reads means the same to ``AnswerDecoder``; what it doesn't is left to that. A
chunk's bytes before and after its text are compared with those of a chunk that was decoded, and
what lies between must be one string of JSON.

Rule 2: an engine whose chunks are never alike is found out soon, and costs no more then.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reverie.backends.decoding.shapes import RawChunk, decode_plain

_OPEN = b"data: "
_CLOSE = b"\n\n"
_MARK = "\N{REPLACEMENT CHARACTER}?"
_MARK_JSON = b'"\xef\xbf\xbd?"'
_BETWEEN = b",\n"
"""Between the strings of an array. No string of JSON holds a line break, so that two halves of a
text never make a string together."""

_MAX_PLACES = 4
"""Places in a chunk at which its text may be."""
_TRIALS = 4
_WORTH_IT = 16
"""Chunks that a pattern must have read for another one to be worth learning."""

_decode_raw = msgspec.json.Decoder(RawChunk).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode


class ChunkPattern:
    """The bytes around the texts of one answer's plain chunks, each an event of one line."""

    __slots__ = ("_between", "_end", "_read", "_start", "_trials", "known")

    def __init__(self) -> None:
        self.known = False
        self._start = self._end = self._between = b""
        self._read = 0
        self._trials = _TRIALS

    def learn(self, payload: bytes) -> None:
        """Take a plain chunk, which had text and neither counts nor timings, as the pattern."""
        if self._read >= _WORTH_IT:
            self._trials = _TRIALS
        self.known = False
        self._read = 0
        if not self._trials:
            return
        self._trials -= 1
        at = _place_of_text(payload)
        if at is not None and b"\r" not in payload and b"\n" not in payload:
            self._start, self._end = _OPEN + payload[: at[0]], payload[at[1] :] + _CLOSE
            self._between = self._end + self._start
            self.known = True

    def texts(self, data: bytes) -> list[str] | None:
        """The texts of what is nothing but whole plain chunks; None: it may be something else."""
        start, end = self._start, self._end
        if not data.startswith(start):
            self.known = False  # the engine's chunks have changed
            return None
        if not data.endswith(end):
            return None
        middle = data[len(start) : -len(end)]
        if _CLOSE not in middle:
            return self._decoded([middle])
        literals = self._literals(data)
        return self._decoded(literals) if self._between.join(literals) == middle else None

    def texts_before_another(self, payloads: Sequence[bytes], begin: int) -> list[str]:
        """The texts of the payloads from there on, up to one that may be something else."""
        start, end = self._start[len(_OPEN) :], self._end[: -len(_CLOSE)]
        first, last = len(start), -len(end)
        literals: list[bytes] = []
        for index in range(begin, len(payloads)):
            payload = payloads[index]
            if not (payload.startswith(start) and payload.endswith(end)):
                break
            literals.append(payload[first:last])
        if not literals:
            return []
        texts = self._decoded(literals)
        if texts is None:
            self.known = False  # or each that follows would be tried with all after it
        return texts or []

    def _decoded(self, literals: Sequence[bytes]) -> list[str] | None:
        """Texts by what stood in their places; None: one is no text, or more than one."""
        try:
            texts = _decode_texts(b"[%b]" % _BETWEEN.join(literals))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(texts) != len(literals) or "" in texts:
            return None
        self._read += len(texts)
        return texts

    def _literals(self, data: bytes) -> list[bytes]:
        """What is in the place of the text in each event, if all are alike."""
        # To search for what lies between two texts, which is long, would take several times longer.
        begin, end = len(self._start) - len(_OPEN), len(_CLOSE) - len(self._end)
        events = data[len(_OPEN) : -len(_CLOSE)].split(_CLOSE + _OPEN)
        return [event[begin:end] for event in events]


def _place_of_text(payload: bytes) -> tuple[int, int] | None:
    """Where the string of a plain chunk's text begins and ends; None if that can't be told.

    Where another string, put in its place, turns out to be the text, there is the place. What
    precedes a value doesn't depend on it, so any string there is the text.
    """
    try:
        text = bytes(_decode_raw(payload).choices[0].delta.content)
        if _decode_text(text) == _MARK:
            return None
        at = -1
        for _ in range(_MAX_PLACES):
            at = payload.find(text, at + 1)
            if at < 0:
                return None
            end = at + len(text)
            if _is_text(payload[:at] + _MARK_JSON + payload[end:]):
                return at, end
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return None


def _is_text(payload: bytes) -> bool:
    """True if the payload is a plain chunk whose text is the mark."""
    try:
        return decode_plain(payload).choices[0].delta.content == _MARK
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
