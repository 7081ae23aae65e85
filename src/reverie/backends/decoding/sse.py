"""Server-sent events, sans-IO: bytes in, the payloads of complete events out.

Source: the WHATWG HTML standard, §9.2 "Server-sent events", without what a model's answer never
uses (event types, reconnection). Ids are for those who go on with an answer (``feed_events``).

Rule 1: the result depends on the bytes alone, never on how they were cut into reads.

Rule 2: an event is returned with the read that completes it. It ends with a blank line. A ``\\r``
at the end of a read ends its line at once; a ``\\n`` that then opens the next read belongs to it.

Rule 3: an event that never ends must not fill the memory: its size is bounded.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1024 * 1024
"""A token's event has some 300 bytes; with 20 top logprobs, some 4 KiB."""

_BOM = b"\xef\xbb\xbf"
_EVENT_END = b"\n\n"
_DATA = b"data: "
_BETWEEN = _EVENT_END + _DATA


class ProtocolError(Exception):
    """An event is larger than allowed."""


class SSEParser:
    """Parses one stream. Not reusable.

    Args:
        limit: the most bytes that one event may have.
    """

    __slots__ = ("_after_cr", "_at_start", "_held", "_limit")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()  # the start of an event, with each line end as a single "\n"
        self._after_cr = False  # the last byte fed was a "\r"
        self._at_start = True  # no event has ended yet

    @property
    def between_events(self) -> bool:
        """True if an event has ended, and nothing came after it."""
        return not (self._held or self._after_cr or self._at_start)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the payloads that they complete.

        A payload is what follows ``data:`` in one event, its lines joined with ``\\n``. Events
        without data, such as comments, have none. An event that the stream's end cuts off is
        dropped, as the standard demands.

        Raises:
            ProtocolError: an event is larger than the limit.
        """
        if not self._held and data.startswith(_DATA) and data.endswith(_EVENT_END):
            # Nearly every read: whole events of one line of data each, which one split cuts apart.
            payloads = data[6:-2].split(_BETWEEN)
            lines = 2 * len(payloads)
            if data.count(b"\n") == lines and b"\r" not in data and len(data) <= self._limit:
                self._at_start = self._after_cr = False
                return payloads
        payloads = []
        for event in self.feed_events(data):
            if event.startswith(_DATA) and b"\n" not in event:  # nearly all of them
                payloads.append(event[6:])
            elif (payload := field_of(event, b"data")) is not None:
                payloads.append(payload)
        return payloads

    def feed_events(self, data: bytes) -> list[bytes]:
        """As ``feed``, but return whole events, for ``field_of``."""
        if self._after_cr or b"\r" in data:
            data = self._with_single_line_ends(data)
        held = self._held
        if held:
            searched = len(held) - 1
            held += data
            end = held.rfind(_EVENT_END, searched)
            if end >= 0:
                complete = bytes(held[:end])
                del held[: end + 2]
        else:
            end = data.rfind(_EVENT_END)
            complete = data[:end] if end >= 0 else b""
            held += data[end + 2 :] if end >= 0 else data
        if len(held) > self._limit:
            raise ProtocolError(f"an event exceeds {self._limit} bytes")
        return self._split(complete) if end >= 0 else []

    def _with_single_line_ends(self, data: bytes) -> bytes:
        if self._after_cr and data:
            data = data.removeprefix(b"\n") if data != b"\n" else b""
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _split(self, complete: bytes) -> list[bytes]:
        """Complete events, the last of them without its blank line."""
        if self._at_start:
            self._at_start = False
            complete = complete.removeprefix(_BOM)
        events = complete.split(_EVENT_END)
        if max(map(len, events)) > self._limit:
            raise ProtocolError(f"an event exceeds {self._limit} bytes")
        return events


def field_of(event: bytes, name: bytes) -> bytes | None:
    """The value of an event's field, its lines joined with ``\\n``; None if it has none."""
    values = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == name:
            values.append(value.removeprefix(b" "))
    return b"\n".join(values) if values else None
