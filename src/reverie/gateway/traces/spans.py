"""The facts of a request → its spans. Pure: no I/O, nothing of a wire format.

::

    chat MODEL            the request, by its whole duration
    ├─ ledger reserve
    ├─ queue              until a backend had a slot
    ├─ chat MODEL         one attempt on one backend
    │  ├─ prefill         until its first token
    │  └─ decode          until its last
    └─ ledger settle
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from reverie.gateway.gen_ai import PROVIDER
from reverie.gateway.record import RequestRecord
from reverie.gateway.traces import attributes as names
from reverie.gateway.traces.attributes import Attribute, Attributes
from reverie.gateway.traces.content import ContentRecord, input_messages, output_messages
from reverie.gateway.traces.trace import Attempt, Trace, new_id
from reverie.request import GenerateRequest

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans, by OTLP's numbers."""

_GENERATING = ("chat", "text_completion")
_PORTS = {"http": 80, "https": 443}


class SpanEvent(NamedTuple):
    name: str
    at: int
    attributes: Attributes = ()


class Span(NamedTuple):
    """One span. Times are nanoseconds since the epoch."""

    name: str
    kind: int
    span_id: bytes
    parent_id: bytes
    began: int
    ended: int
    shared: Attributes = ()
    """Attributes that many spans have alike."""
    own: Attributes = ()
    events: tuple[SpanEvent, ...] = ()
    failure: str | None = None
    """What went wrong, in words or none; None: nothing did."""


def spans_of(record: RequestRecord, trace: Trace) -> list[Span]:
    """The spans of a request that has ended, itself first."""
    ended = record.ended or record.began
    name = f"{trace.operation} {record.model}" if trace.operation else ""
    root, at = trace.context.span_id, trace.at
    spans = [_request_span(record, trace, name, ended)]
    for step, began, until, error in trace.steps:
        failure = None if error is None else ""
        spans.append(_child(root, step, at(began), at(until), _failed_with(error), failure))
    for since in trace.waiting:  # its client left, or a shutdown
        spans.append(_child(root, "queue", at(since), at(ended)))
    for attempt in trace.attempts:
        _add_attempt(spans, record, trace, attempt, name, ended)
    return spans


def _child(
    parent_id: bytes,
    name: str,
    began: int,
    ended: int,
    shared: Attributes = (),
    failure: str | None = None,
) -> Span:
    return Span(name, INTERNAL, new_id(8), parent_id, began, ended, shared, (), (), failure)


def _failed_with(error: str | None) -> Attributes:
    return () if error is None else ((names.ERROR, error),)


def _request_span(record: RequestRecord, trace: Trace, name: str, ended: float) -> Span:
    server = trace.server
    failed = record.status >= 500 or record.outcome in ("failed", "stopped")
    if not name:
        name = f"{server.method} {record.route}" if server else record.name
    return Span(
        name,
        INTERNAL if server is None else SERVER,
        trace.context.span_id,
        trace.parent_id,
        trace.at(record.began),
        trace.at(ended),
        tuple(_shared(record, trace)),
        tuple(_own(record, trace)),
        tuple(sorted(_events(record, trace), key=lambda event: event.at)),
        (record.reason or "") if failed else None,
    )


def _shared(record: RequestRecord, trace: Trace) -> Iterator[Attribute]:
    server = trace.server
    if server is not None:
        yield names.METHOD, server.method
        yield names.ROUTE, record.route
        yield names.SCHEME, server.scheme
        if record.status:
            yield names.STATUS, record.status
        if server.address is not None and server.port is not None:
            yield names.SERVER_ADDRESS, server.address
            yield names.SERVER_PORT, server.port
    if trace.operation:
        yield names.OPERATION, trace.operation
        yield names.PROVIDER, PROVIDER
    if record.model is not None:
        yield names.REQUEST_MODEL, record.model
        if record.finish_reasons:
            yield names.RESPONSE_MODEL, record.model
            yield names.FINISH_REASONS, tuple(map(_reason, record.finish_reasons))
    if trace.choices > 1:
        yield "gen_ai.request.choice.count", trace.choices
    yield from trace.parameters
    if record.key is not None:
        yield names.KEY, record.key
    if record.backend is not None:
        yield names.BACKEND, record.backend
    if record.error is not None:
        yield names.ERROR, record.error
    yield names.OUTCOME, record.outcome


def _reason(reason: str) -> str:
    """A reason by the conventions' name: they have one call where OpenAI has several."""
    return "tool_call" if reason == "tool_calls" else reason


def _own(record: RequestRecord, trace: Trace) -> Iterator[Attribute]:
    yield names.REQUEST_ID, record.id
    if trace.server is not None:
        yield names.PATH, trace.server.path
    prompt, completion = record.prompt_tokens, record.completion_tokens
    if prompt is not None:
        yield names.INPUT_TOKENS, prompt
        if record.cached_tokens:
            yield names.CACHED_TOKENS, record.cached_tokens
    if completion is not None or record.pieces:
        yield names.OUTPUT_TOKENS, record.pieces if completion is None else completion
        if record.reasoning_tokens:
            yield names.REASONING_TOKENS, record.reasoning_tokens
    if record.estimated:
        yield names.ESTIMATED, True
    if record.stream and record.time_to_first_token is not None:
        yield names.TIME_TO_FIRST_CHUNK, record.time_to_first_token
    if record.failovers:
        yield names.FAILOVERS, record.failovers
    if record.replayed is not None:
        yield names.REPLAYED, record.replayed
    if isinstance(record, ContentRecord):
        yield from _content(record, trace)


def _content(record: ContentRecord, trace: Trace) -> Iterator[Attribute]:
    if not isinstance(trace.request, GenerateRequest):
        return
    if asked := input_messages(trace.request):
        yield names.INPUT_MESSAGES, asked
    answers = [
        (one.deltas, _reason(one.finish_reasons[0] if one.finish_reasons else "error"))
        for one in (record.parts or [record])
        if one.deltas
    ]
    if said := output_messages(answers, with_reasons=not trace.options.latest):
        yield names.OUTPUT_MESSAGES, said


def _events(record: RequestRecord, trace: Trace) -> Iterator[SpanEvent]:
    if record.first_token is not None and trace.attempts:
        yield SpanEvent("first token", trace.at(record.first_token))
    for attempt in trace.attempts:
        before = attempt.before
        if before is None or before.error is None:
            continue
        told: Attributes = (
            (names.FROM_BACKEND, before.backend),
            (names.BACKEND, attempt.backend),
            (names.ERROR, before.error),
        )
        if attempt.after_tokens is None:
            yield SpanEvent("failover", trace.at(attempt.granted), told)
        else:
            told += ((names.AFTER_TOKENS, attempt.after_tokens),)
            yield SpanEvent("continuation", trace.at(attempt.granted), told)
    for note in trace.notes:
        yield SpanEvent(note.name, trace.at(note.at), note.attributes)


def _add_attempt(
    spans: list[Span],
    record: RequestRecord,
    trace: Trace,
    attempt: Attempt,
    name: str,
    at_end: float,
) -> None:
    root, granted = trace.context.span_id, trace.at(attempt.granted)
    position = ((names.POSITION, attempt.position),) if attempt.position else ()
    spans.append(_child(root, "queue", trace.at(attempt.queued), granted, position))
    ended = at_end if attempt.ended is None else attempt.ended  # its client left, or a shutdown
    cut_short = attempt.ended is None and record.error is not None
    error = record.error if cut_short else attempt.error
    failure = None if error is None or cut_short else attempt.reason or ""
    shared = (
        (names.OPERATION, trace.operation),
        (names.PROVIDER, "llamacpp" if attempt.kind == "embedded" else attempt.kind),
        (names.REQUEST_MODEL, record.model or ""),
        (names.BACKEND, attempt.backend),
        *_address_of(attempt.url),
        *_failed_with(error),
    )
    own: Attributes = ()
    if attempt.reason:
        own += ((names.REASON, attempt.reason),)
    if attempt.after_tokens is not None:
        own += ((names.AFTER_TOKENS, attempt.after_tokens),)
    until = trace.at(ended)
    spans.append(
        Span(
            name or "attempt", CLIENT, attempt.span_id, root, granted, until, shared, own, (),
            failure,
        )
    )  # fmt: skip
    if trace.operation not in _GENERATING:
        return
    if attempt.first_token is None:
        spans.append(_child(attempt.span_id, "prefill", granted, until))
        return
    first = trace.at(attempt.first_token)
    spans.append(_child(attempt.span_id, "prefill", granted, first))
    spans.append(_child(attempt.span_id, "decode", first, until))


@lru_cache(maxsize=1024)
def _address_of(url: str) -> Attributes:
    """Where a backend is; nothing for one that runs here."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return ()
    if port is None or not parts.hostname:
        return ()
    return (names.SERVER_ADDRESS, parts.hostname), (names.SERVER_PORT, port)
