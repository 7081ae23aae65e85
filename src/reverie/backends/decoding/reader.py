"""The bytes of one answer → events, sans-IO: the SSE parser, the answer's state, the tool call."""

from __future__ import annotations

from reverie.backends.decoding.chunks import AnswerDecoder, EngineError
from reverie.backends.decoding.refusals import refusal_in_stream
from reverie.backends.decoding.sse import ProtocolError, SSEParser
from reverie.backends.encoding.forced_tools import ForcedCall
from reverie.errors import BackendError
from reverie.events import Event
from reverie.request import GenerateRequest

MAX_WHOLE_BYTES = 16 * 1024 * 1024
"""The most bytes of an answer that isn't streamed."""

_PIECES_PER_TOKEN = 4
_SPARE_PIECES = 64
"""An engine may send a token in pieces (half characters, a tool call's name and arguments); one
that goes far beyond ``max_tokens`` has lost its bound, and would never end."""


class AnswerReader:
    """Reads one answer.

    Args:
        streamed: it is a stream of events; otherwise one ``chat.completion``.
        forced: the answer is constrained to a tool call (see ``forced_tools``).
        tells_usage: as ``AnswerDecoder`` takes it.
    """

    __slots__ = ("_answer", "_begun", "_call", "_most_pieces", "_parser", "_request", "_whole")

    def __init__(
        self, request: GenerateRequest, *, streamed: bool, forced: bool, tells_usage: bool = False
    ) -> None:
        self._request = request
        self._answer = AnswerDecoder(tells_usage=tells_usage)
        self._most_pieces = _PIECES_PER_TOKEN * request.max_tokens + _SPARE_PIECES
        self._parser = SSEParser() if streamed else None
        self._call = ForcedCall() if forced else None
        self._whole = bytearray()
        self._begun = False

    @property
    def pieces(self) -> int:
        """Pieces of the answer that have arrived: grows with every sign of the engine's work."""
        return self._answer.pieces

    @property
    def reports(self) -> int:
        """The engine's reports of its work on the prompt, before the first piece."""
        return self._answer.reports

    @property
    def finished(self) -> bool:
        """Whether the finish reason has arrived."""
        return self._answer.finished

    @property
    def complete(self) -> bool:
        """Whether everything that matters has arrived."""
        return self._answer.complete

    def feed(self, data: bytes) -> list[Event]:
        """The events which these bytes complete.

        Raises:
            BackendError: they can't be read, or report a failure.
            ContextLengthExceeded: they report that the prompt doesn't fit.
        """
        if self._parser is None:
            self._whole += data
            if len(self._whole) > MAX_WHOLE_BYTES:
                raise _unreadable(f"a body exceeds {MAX_WHOLE_BYTES} bytes")
            return []
        try:
            payloads = self._parser.feed(data)
        except ProtocolError as error:
            raise _unreadable(str(error)) from error
        events: list[Event] = []
        for payload in payloads:
            self._read(payload, events)
        if self._answer.pieces > self._most_pieces:
            raise BackendError(
                "The model's backend did not stop at max_tokens.", reason="far beyond max_tokens"
            )
        return events

    def end(self) -> list[Event]:
        """The last events. The body has ended, or ``complete`` says that the rest is no matter.

        Raises:
            BackendError: the answer was cut.
        """
        events: list[Event] = []
        if self._parser is None:
            self._read(bytes(self._whole), events)
        last = self._answer.end()
        return events + (last if self._call is None else self._call.end(last))

    def _read(self, payload: bytes, events: list[Event]) -> None:
        try:
            delta = self._answer.read(payload)
        except EngineError as error:
            raise refusal_in_stream(
                error.error, self._request, started=self._answer.pieces > 0
            ) from None
        if delta is not None and self._call is not None:
            delta = self._call.rewrite(delta)
        if delta is None:
            return
        if self._answer.prompt is not None and not self._begun:
            events.append(self._answer.prompt)
        self._begun = True
        events.append(delta)


def _unreadable(reason: str) -> BackendError:
    return BackendError("The model's backend sent what can't be read.", reason=reason)
