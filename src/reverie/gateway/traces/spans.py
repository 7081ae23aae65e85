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

from msgspec import Struct

from reverie.gateway.gen_ai import PROVIDER
from reverie.gateway.record import RequestRecord
from reverie.gateway.traces import attributes as names
from reverie.gateway.traces.attributes import Attribute, Attributes
from reverie.gateway.traces.content import ContentRecord, input_messages, output_messages
from reverie.gateway.traces.trace import Attempt, Endpoint, Trace, new_id
from reverie.request import GenerateRequest

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans, by OTLP's numbers."""

_GENERATING = ("chat", "text_completion")
_PORTS = {"http": 80, "https": 443}


class SpanEvent(NamedTuple):
    name: str
    at: int
    attributes: Attributes = ()


class Alike:
    """What many spans have alike. Those of equal ones share one object, by which it is cached."""

    __slots__ = ("attributes", "kind", "name")

    def __init__(self, name: str, kind: int, attributes: Attributes = ()) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes


class Span(Struct, frozen=True, eq=False, gc=False):
    """One span. Times are nanoseconds since the epoch."""

    alike: Alike
    span_id: bytes
    parent_id: bytes
    began: int
    ended: int
    own: Attributes = ()
    """Attributes that it has for itself."""
    events: tuple[SpanEvent, ...] = ()
    failure: str | None = None
    """What went wrong, in words or none; None: nothing did."""


def spans_of(record: RequestRecord, trace: Trace, epoch_ns: int) -> list[Span]:
    """The spans of a request that has ended, itself first.

    Args:
        epoch_ns: when the monotonic clock was zero, in nanoseconds since the epoch.
    """
    ended = record.ended or record.began
    root = trace.context.span_id
    spans = [_request_span(record, trace, epoch_ns)]
    for step in trace.steps:
        spans.append(_child(root, step.name, step.began, step.ended, epoch_ns, step.error))
    for attempt in trace.attempts:
        _add_attempt(spans, record, trace, attempt, ended, epoch_ns)
    return spans


def _child(
    parent_id: bytes, name: str, began: float, ended: float, epoch_ns: int, error: str | None = None
) -> Span:
    return Span(
        _child_alike(name, error, 0),
        new_id(8),
        parent_id,
        epoch_ns + int(began * 1e9),
        epoch_ns + int(ended * 1e9),
        failure=None if error is None else "",
    )


@lru_cache(maxsize=1024)
def _child_alike(name: str, error: str | None, position: int) -> Alike:
    at = ((names.POSITION, position),) if position else ()
    return Alike(name, INTERNAL, (*at, *_failed_with(error)))


def _failed_with(error: str | None) -> Attributes:
    return () if error is None else ((names.ERROR, error),)


def _request_span(record: RequestRecord, trace: Trace, epoch_ns: int) -> Span:
    failed = record.status >= 500 or record.outcome in ("failed", "stopped")
    events = _events(record, trace, epoch_ns)
    if len(events) > 1:
        events.sort(key=lambda event: event.at)
    return Span(
        _request_alike(
            trace.server,
            record.name if trace.server is None else record.route,
            trace.path == record.route,
            record.status,
            trace.operation,
            record.model,
            record.finish_reasons,
            trace.choices,
            trace.parameters,
            record.key,
            record.backend,
            record.error,
            record.outcome,
        ),
        trace.context.span_id,
        trace.parent_id,
        epoch_ns + int(record.began * 1e9),
        epoch_ns + int((record.ended or record.began) * 1e9),
        tuple(_own(record, trace)),
        tuple(events),
        (record.reason or "") if failed else None,
    )


@lru_cache(maxsize=1024)
def _request_alike(
    server: Endpoint | None,
    route: str,
    is_path: bool,
    status: int,
    operation: str,
    model: str | None,
    finish_reasons: tuple[str, ...],
    choices: int,
    parameters: Attributes,
    key: str | None,
    backend: str | None,
    error: str | None,
    outcome: str,
) -> Alike:
    """What requests have alike; ``route`` is the name of what isn't one itself."""
    told: list[Attribute] = []
    name = route
    if server is not None:
        name = f"{server.method} {route}"
        told += [(names.METHOD, server.method), (names.ROUTE, route)]
        told.append((names.SCHEME, server.scheme))
        if is_path:
            told.append((names.PATH, route))
        if status:
            told.append((names.STATUS, status))
        if server.address is not None and server.port is not None:
            told += [(names.SERVER_ADDRESS, server.address), (names.SERVER_PORT, server.port)]
    if operation:
        name = f"{operation} {model}"
        told += [(names.OPERATION, operation), (names.PROVIDER, PROVIDER)]
    if model is not None:
        told.append((names.REQUEST_MODEL, model))
        if finish_reasons:
            reasons = tuple(map(_reason, finish_reasons))
            told += [(names.RESPONSE_MODEL, model), (names.FINISH_REASONS, reasons)]
    if choices > 1:
        told.append(("gen_ai.request.choice.count", choices))
    told += parameters
    if key is not None:
        told.append((names.KEY, key))
    if backend is not None:
        told.append((names.BACKEND, backend))
    told += _failed_with(error)
    told.append((names.OUTCOME, outcome))
    return Alike(name, INTERNAL if server is None else SERVER, tuple(told))


def _reason(reason: str) -> str:
    """A reason by the conventions' name: they have one call where OpenAI has several."""
    return "tool_call" if reason == "tool_calls" else reason


def _own(record: RequestRecord, trace: Trace) -> list[Attribute]:
    told: list[Attribute] = [(names.REQUEST_ID, record.id)]
    if trace.server is not None and trace.path != record.route:
        told.append((names.PATH, trace.path))
    prompt, completion = record.prompt_tokens, record.completion_tokens
    if prompt is not None:
        told.append((names.INPUT_TOKENS, prompt))
        if record.cached_tokens:
            told.append((names.CACHED_TOKENS, record.cached_tokens))
    if completion is not None or record.pieces:
        told.append((names.OUTPUT_TOKENS, record.pieces if completion is None else completion))
        if record.reasoning_tokens:
            told.append((names.REASONING_TOKENS, record.reasoning_tokens))
    if record.estimated:
        told.append((names.ESTIMATED, True))
    if record.stream and record.time_to_first_token is not None:
        told.append((names.TIME_TO_FIRST_CHUNK, record.time_to_first_token))
    if record.failovers:
        told.append((names.FAILOVERS, record.failovers))
    if record.replayed is not None:
        told.append((names.REPLAYED, record.replayed))
    if isinstance(record, ContentRecord):
        told += _content(record, trace)
    return told


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


def _events(record: RequestRecord, trace: Trace, epoch_ns: int) -> list[SpanEvent]:
    told: list[SpanEvent] = []
    if record.first_token is not None and trace.attempts:
        told.append(SpanEvent("first token", epoch_ns + int(record.first_token * 1e9)))
    for attempt in trace.attempts:
        before = attempt.before
        if before is None or before.error is None or attempt.granted is None:
            continue
        of_it: Attributes = (
            (names.FROM_BACKEND, before.backend),
            (names.BACKEND, attempt.backend),
            (names.ERROR, before.error),
        )
        kind = "failover"
        if attempt.after_tokens is not None:
            kind = "continuation"
            of_it += ((names.AFTER_TOKENS, attempt.after_tokens),)
        told.append(SpanEvent(kind, epoch_ns + int(attempt.granted * 1e9), of_it))
    for note in trace.notes:
        told.append(SpanEvent(note.name, epoch_ns + int(note.at * 1e9)))
    return told


def _add_attempt(
    spans: list[Span],
    record: RequestRecord,
    trace: Trace,
    attempt: Attempt,
    at_end: float,
    epoch_ns: int,
) -> None:
    root = trace.context.span_id
    ended = at_end if attempt.ended is None else attempt.ended  # its client left, or a shutdown
    if attempt.granted is None:
        spans.append(_child(root, "queue", attempt.queued, ended, epoch_ns, attempt.error))
        return
    queued, granted = epoch_ns + int(attempt.queued * 1e9), epoch_ns + int(attempt.granted * 1e9)
    until = epoch_ns + int(ended * 1e9)
    spans.append(
        Span(_child_alike("queue", None, attempt.position), new_id(8), root, queued, granted)
    )
    cut_short = attempt.ended is None and record.error is not None
    error = record.error if cut_short else attempt.error
    own: Attributes = ()
    if attempt.reason:
        own += ((names.REASON, attempt.reason),)
    if attempt.after_tokens is not None:
        own += ((names.AFTER_TOKENS, attempt.after_tokens),)
    alike = _attempt_alike(
        trace.operation, record.model or "", attempt.kind, attempt.backend, attempt.url, error
    )
    failure = None if error is None or cut_short else attempt.reason or ""
    span_id = attempt.span_id
    spans.append(Span(alike, span_id, root, granted, until, own, (), failure))
    if trace.operation not in _GENERATING:
        return
    if attempt.first_token is None:
        spans.append(Span(_PREFILL, new_id(8), span_id, granted, until))
        return
    first = epoch_ns + int(attempt.first_token * 1e9)
    spans.append(Span(_PREFILL, new_id(8), span_id, granted, first))
    spans.append(Span(_DECODE, new_id(8), span_id, first, until))


_PREFILL, _DECODE = Alike("prefill", INTERNAL), Alike("decode", INTERNAL)


@lru_cache(maxsize=1024)
def _attempt_alike(
    operation: str, model: str, kind: str, backend: str, url: str, error: str | None
) -> Alike:
    told: Attributes = (
        (names.OPERATION, operation),
        (names.PROVIDER, "llamacpp" if kind == "embedded" else kind),
        (names.REQUEST_MODEL, model),
        (names.BACKEND, backend),
        *_address_of(url),
        *_failed_with(error),
    )
    return Alike(f"{operation} {model}" if operation else "attempt", CLIENT, told)


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
