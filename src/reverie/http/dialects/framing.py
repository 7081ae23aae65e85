"""How a dialect lays out its streams: as server-sent events, or as JSON on lines."""

from __future__ import annotations

from typing import NamedTuple

from reverie.http.connection.exchange import Headers


class Framing(NamedTuple):
    """One layout."""

    content_type: bytes
    numbered: bool
    """True if events can carry numbers, for ``Last-Event-ID``."""

    @property
    def headers(self) -> Headers:
        """The headers of a stream. No proxy is to hold it back."""
        return [
            (b"content-type", self.content_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]


EVENTS = Framing(b"text/event-stream; charset=utf-8", numbered=True)
LINES = Framing(b"application/x-ndjson", numbered=False)
