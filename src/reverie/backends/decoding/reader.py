"""Turns the bytes of one answer into events, sans-IO."""

from __future__ import annotations

from typing import Literal, TypeAlias

from reverie.backends.decoding.chunks import AnswerDecoder, EngineError, unreadable
from reverie.backends.decoding.pieces import merged, without_alternatives
from reverie.backends.decoding.refusals import refusal_in_stream
from reverie.backends.decoding.sse import MAX_EVENT_BYTES, ProtocolError, SSEParser
from reverie.backends.encoding.forced_tools import ForcedCall
from reverie.errors import BackendError
from reverie.events import Delta, Event, Prompt
from reverie.request import GenerateRequest

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The most bytes of an answer that isn't streamed."""

_DELTAS_PER_TOKEN = 4
_SPARE_DELTAS = 64
"""An engine may split a token into several deltas (half characters, a tool call's name and
arguments). One that goes far beyond ``max_tokens`` ignores it, and might never stop."""


Pieces: TypeAlias = Literal["apart", "joined", "merged"]

Shape: TypeAlias = Literal["events", "completion"]
"""Server-sent events, or one ``chat.completion``."""

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b":", b"event:", b"id:", b"retry:")
"""How the first line of a stream of events may begin."""


class AnswerReader:
    """Reads one answer.

    Args:
        streamed: the response says that it is a stream of events. Whether it is one, or a
            ``chat.completion`` in one piece, is seen by its first bytes: labels are often wrong.
        forced: the answer is constrained to a tool call (see ``forced_tools``).
        continuous_usage: see ``AnswerDecoder``.
        pieces: what becomes of texts that arrive together. ``merged``: one delta, since nobody
            needs them apart. ``joined``: one delta that knows its pieces. ``apart``: a delta each.
    """

    __slots__ = (
        "_body",
        "_decoder",
        "_forced_call",
        "_max_deltas",
        "_parser",
        "_pieces",
        "_request",
        "_shape",
        "_started",
        "_streamed",
    )

    def __init__(
        self,
        request: GenerateRequest,
        *,
        streamed: bool,
        forced: bool,
        continuous_usage: bool = False,
        pieces: Pieces = "apart",
    ) -> None:
        self._request = request
        self._pieces = pieces
        self._decoder = AnswerDecoder(
            continuous_usage=continuous_usage,
            functions=frozenset(tool["function"]["name"] for tool in request.tools or ()),
        )
        self._max_deltas = _DELTAS_PER_TOKEN * request.max_tokens + _SPARE_DELTAS
        self._streamed = streamed
        self._parser: SSEParser | None = None
        self._shape: Shape | None = None
        self._forced_call = ForcedCall() if forced else None
        self._body = bytearray()
        self._started = False

    @property
    def deltas(self) -> int:
        """Deltas that have arrived. It grows even while a forced call returns no events."""
        return self._decoder.deltas

    @property
    def prompt(self) -> Prompt | None:
        """The prompt, as the engine's last report tells of it: another object for each."""
        return self._decoder.prompt

    @property
    def finished(self) -> bool:
        """True once the finish reason has arrived."""
        return self._decoder.finished

    @property
    def complete(self) -> bool:
        """True once everything that matters has arrived."""
        return self._decoder.complete

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes; return the events that they complete.

        Raises:
            BackendError: they can't be read, or report a failure.
            ContextLengthExceeded: they report that the prompt doesn't fit.
        """
        if self._may_be_alike and len(data) <= MAX_EVENT_BYTES:
            texts = self._decoder.read_alike(data)
            if texts is not None:
                self._refuse_endless()
                return self._deltas_of(texts)
        return self._feed_any(data)

    def _deltas_of(self, texts: list[str]) -> list[Event]:
        """Texts that arrived together, a token each."""
        if len(texts) > 1 and self._pieces != "apart":
            pieces = texts if self._pieces == "joined" else ()
            return [Delta("".join(texts), tokens=len(texts), pieces=pieces)]
        return [Delta(text) for text in texts]

    @property
    def _may_be_alike(self) -> bool:
        """True if the next bytes may well be whole chunks like one before, as nearly always."""
        parser = self._parser
        if parser is None or self._forced_call is not None:
            return False
        return self._started and parser.between_events

    def _feed_any(self, data: bytes) -> list[Event]:
        """As ``feed``, whatever the bytes are."""
        if self._parser is None:
            self._body += data
            if len(self._body) > MAX_BODY_BYTES:
                raise unreadable(f"a body exceeds {MAX_BODY_BYTES} bytes")
            if self._shape is None:
                self._shape = _shape(self._body, labelled=self._streamed)
            if self._shape != "events":
                return []
            self._parser = SSEParser()
            data, self._body = bytes(self._body), bytearray()
        try:
            payloads = self._parser.feed(data)
        except ProtocolError as error:
            if not self._decoder.finished:
                raise unreadable(str(error)) from error
            self._decoder.complete = True
            return []
        events: list[Event] = []
        self._read(payloads, events)
        self._refuse_endless()
        return merged(events) if self._pieces == "merged" and len(events) > 1 else events

    def _refuse_endless(self) -> None:
        if self._decoder.deltas > self._max_deltas and not self._decoder.finished:
            raise BackendError(
                "The model's backend did not stop at max_tokens. Try again.",
                reason="far beyond max_tokens",
            )

    def end(self) -> list[Event]:
        """The last events. Call it once the body has ended or the answer is ``complete``.

        Raises:
            BackendError: the answer was cut.
        """
        events: list[Event] = []
        if self._shape == "completion":
            self._read([bytes(self._body)], events)
        last = self._decoder.end()
        return events + (last if self._forced_call is None else self._forced_call.end(last))

    def _read(self, payloads: list[bytes], events: list[Event]) -> None:
        read = self._decoder.read
        try:
            at = 0
            while at < len(payloads):
                if self._started and self._forced_call is None:
                    texts = self._decoder.read_alike_of(payloads, at)
                    if texts:
                        at += len(texts)
                        events += self._deltas_of(texts)
                        continue
                delta = read(payloads[at])
                at += 1
                if delta is None:
                    continue
                if delta.logprobs and not self._request.top_logprobs:
                    delta = without_alternatives(delta)
                if self._forced_call is not None:
                    delta = self._forced_call.rewrite(delta)
                    if delta is None:
                        continue
                if not self._started:
                    self._started = True
                    if self._decoder.prompt is not None:
                        events.append(self._decoder.prompt)
                events.append(delta)
        except EngineError as error:
            raise refusal_in_stream(
                error.error, self._request, started=self._decoder.deltas > 0
            ) from None


def _shape(body: bytes | bytearray, *, labelled: bool) -> Shape | None:
    """What a body is, by its first bytes; None: they are too few to tell.

    Args:
        labelled: the response says that it is a stream of events.

    Raises:
        BackendError: it is neither, such as an HTML page.
    """
    if _BOM.startswith(body):
        return None
    start = bytes(body[:64]).removeprefix(_BOM).lstrip()
    if start.startswith(b"{"):
        return "completion"
    if start.startswith(_FIELDS) or (labelled and start):
        return "events"
    if len(body) < 64 and any(field.startswith(start) for field in _FIELDS):
        return None
    raise BackendError(
        "The model's backend answered with something else than a completion. Try again.",
        reason="neither server-sent events nor a JSON object",
    )
