"""The copy of an answer that is kept for its retries, and the numbers of its events."""

from __future__ import annotations

EVENT_END = b"\n\n"


class KeptCopy:
    """Numbers the events of an answer for ``Last-Event-ID``, and keeps a copy of all of them."""

    def __init__(self, limit: int, base: int, *, numbered: bool) -> None:
        self._limit = limit
        self._numbered = numbered
        self._last = base
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bytes:
        """Keep what is written next; return it with its numbers."""
        if self._numbered:
            data = b"".join(map(self._number, data.split(EVENT_END)[:-1]))
        self._size += len(data)
        if self._size <= self._limit:
            self._parts.append(data)
        else:
            self._parts.clear()
        return data

    @property
    def whole(self) -> bytes | None:
        """The whole answer; None if it is larger than the limit."""
        return b"".join(self._parts) if self._size <= self._limit else None

    def _number(self, event: bytes) -> bytes:
        self._last += 1
        return b"id: %d\n%b%b" % (self._last, event, EVENT_END)
