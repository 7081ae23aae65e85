"""Server-sent events, sans-IO: bytes in, the payloads of complete events out.

Source: the WHATWG HTML standard, §9.2 "Server-sent events", less what a model's answer has no use
for (event types, ids, reconnection).

Rule 1: the result depends on the bytes alone, never on how they were cut into reads.

Rule 2: an event is handed on with the read that completes it. Its end is a blank line; a ``\\r``
at the end of a read already ends its line, and a ``\\n`` that then opens the next read belongs to
it.

Rule 3: an event that never ends must not fill the memory: it is bounded.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1024 * 1024
"""A token's event is some 300 bytes; one with 20 top logprobs some 4 KiB. 1 MiB is no answer."""

_BOM = b"\xef\xbb\xbf"
_EVENT_END = b"\n\n"
_DATA = b"data: "


class ProtocolError(Exception):
    """The peer doesn't speak server-sent events within the bounds set here."""


class SSEParser:
    """Parses one stream. Not reusable for a second one.

    Args:
        limit: the most bytes that one event may have.
    """

    __slots__ = ("_after_cr", "_at_start", "_held", "_limit")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()  # an event's beginning, its line ends already single "\n"
        self._after_cr = False  # the last byte fed was a "\r"
        self._at_start = True  # no event has ended yet

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the payloads that they complete.

        A payload is what followed ``data:`` in one event, its lines joined with ``\\n``. Events
        without data (comments, for one) give none. What is left at the stream's end was never
        sent, as WHATWG rules.

        Raises:
            ProtocolError: an event is larger than the limit.
        """
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
        return self._payloads(complete) if end >= 0 else []

    def _with_single_line_ends(self, data: bytes) -> bytes:
        if self._after_cr and data:
            data = data.removeprefix(b"\n") if data != b"\n" else b""
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _payloads(self, complete: bytes) -> list[bytes]:
        """The payloads of whole events, given without the blank line that ends the last one."""
        if self._at_start:
            self._at_start = False
            complete = complete.removeprefix(_BOM)
        payloads: list[bytes] = []
        for event in complete.split(_EVENT_END):
            if len(event) > self._limit:
                raise ProtocolError(f"an event exceeds {self._limit} bytes")
            if event.startswith(_DATA) and b"\n" not in event:  # nearly all of them
                payloads.append(event[6:])
            else:
                lines = [value for line in event.split(b"\n") if (value := _data(line)) is not None]
                if lines:
                    payloads.append(b"\n".join(lines))
        return payloads


def _data(line: bytes) -> bytes | None:
    """The value of a ``data`` field, less one space after its colon; None of any other line."""
    name, _, value = line.partition(b":")
    return value.removeprefix(b" ") if name == b"data" else None
