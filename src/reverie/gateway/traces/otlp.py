"""Spans → the bytes of OTLP, and a collector's answer → what it says. Nothing else imports
OpenTelemetry's messages, which the extra ``otel`` brings.

Spans are written by hand: that takes a tenth of what a message for each span takes. Many have all
alike but ids and times, whose fields have fixed sizes: what they have alike is encoded once. The
fields of a message may be written in any order (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from reverie.gateway.traces.attributes import Attributes, Value
from reverie.gateway.traces.spans import Alike, Span, SpanEvent
from reverie.trace_context import TraceContext

# Fields are written as their number * 8 + how they are written: 0 a varint, 1 64 bits, 2 bytes
# after their length, 5 32 bits.
_RESOURCE_SPANS = b"\x0a"  # ExportTraceServiceRequest.resource_spans
_RESOURCE, _SCOPE_SPANS = b"\x0a", b"\x12"  # of ResourceSpans
_SCOPE, _SPANS = b"\x0a", b"\x12"  # of ScopeSpans
_SCOPE_NAME, _SCOPE_VERSION = b"\x0a", b"\x12"
_RESOURCE_ATTRIBUTES = b"\x0a"
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"  # with their lengths
_STATE, _NAME, _KIND, _BEGAN, _ENDED = b"\x1a", b"\x2a", b"\x30", b"\x39", b"\x41"
_ATTRIBUTES, _EVENTS, _STATUS, _FLAGS = b"\x4a", b"\x5a", b"\x7a", b"\x85\x01"
_EVENT_TIME, _EVENT_NAME, _EVENT_ATTRIBUTES = b"\x09", b"\x12", b"\x1a"
_STATUS_MESSAGE, _STATUS_ERROR = b"\x12", b"\x18\x02"
_KEY, _VALUE = b"\x0a", b"\x12"  # of KeyValue
_STRING, _BOOL, _INT, _DOUBLE, _ARRAY = b"\x0a", b"\x10", b"\x18", b"\x21", b"\x2a"  # AnyValue
_ARRAY_VALUES = b"\x0a"

_IDS_AND_TIMES = Struct("<2s16s2s8ssQsQ").pack
_FIXED = 18 + 10 + 10 + 9 + 9
"""Bytes of ids and times, with the parent's id."""
_32_BITS, _64_BITS, _DOUBLE_BITS = Struct("<I").pack, Struct("<Q").pack, Struct("<d").pack
_SAMPLED, _SAMPLED_REMOTE = 0x101, 0x301  # and it is known whether the parent is remote
_BYTE = tuple(bytes([number]) for number in range(128))

_Pack: TypeAlias = Callable[..., bytes]


def _varint(number: int) -> bytes:
    if 0 <= number < 1 << 7:
        return _BYTE[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF  # negative ones have 64 bits
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _sized(message: bytes) -> bytes:
    """A message with its length before it."""
    return _varint(len(message)) + message


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return _STRING + _sized(value.encode())
    if isinstance(value, bool):
        return _BOOL + _BYTE[value]
    if isinstance(value, int):
        return _INT + _varint(value)
    if isinstance(value, float):
        return _DOUBLE + _DOUBLE_BITS(value)
    return _ARRAY + _sized(b"".join([_ARRAY_VALUES + _sized(_value(one)) for one in value]))


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return _KEY + _sized(name.encode()) + _VALUE


def _attribute(field: bytes, name: str, value: Value) -> bytes:
    return field + _sized(_key(name) + _sized(_value(value)))


_whole_number = lru_cache(maxsize=4096)(_attribute)
"""Of numbers alone, since to a cache 1, 1.0 and True are the same."""


def _attributes(field: bytes, attributes: Attributes) -> bytes:
    """A field for each attribute."""
    encoded = b""
    for name, value in attributes:
        write = _whole_number if type(value) is int else _attribute
        encoded += write(field, name, value)
    return encoded


@lru_cache(maxsize=2048)
def _alike(alike: Alike, flags: int, state: str) -> tuple[bytes, bytes, _Pack]:
    """What many spans have in common, and how one that has no more than that is written: what it
    begins with, and what writes it.
    """
    common = _NAME + _sized(alike.name.encode()) + _KIND + _varint(alike.kind)
    common += _attributes(_ATTRIBUTES, alike.attributes) + _FLAGS + _32_BITS(flags)
    if state:
        common += _STATE + _sized(state.encode())
    begin = _SPANS + _varint(_FIXED + len(common)) + _TRACE_ID
    return common, begin, Struct(f"<{len(begin)}s16s2s8s2s8ssQsQ{len(common)}s").pack


def encode_span(span: Span, context: TraceContext, *, is_remote: bool = False) -> bytes:
    """One span, to be joined with others by ``encode_request``.

    Args:
        context: its trace.
        is_remote: its parent is in another process.
    """
    flags = _SAMPLED_REMOTE if is_remote else _SAMPLED
    common, begin, pack = _alike(span.alike, flags, context.state)
    began, ended, parent_id = span.began, span.ended, span.parent_id
    if ended < began:
        ended = began
    if parent_id and not span.own and not span.events and span.failure is None:
        return pack(
            begin, context.trace_id, _SPAN_ID, span.span_id, _PARENT_ID, parent_id,
            _BEGAN, began, _ENDED, ended, common,
        )  # fmt: skip
    encoded = _IDS_AND_TIMES(
        _TRACE_ID, context.trace_id, _SPAN_ID, span.span_id, _BEGAN, began, _ENDED, ended
    )
    if parent_id:
        encoded += _PARENT_ID + parent_id
    encoded += common + _attributes(_ATTRIBUTES, span.own)
    for event in span.events:
        encoded += _EVENTS + _sized(_event(event))
    if span.failure is not None:
        status = _STATUS_ERROR
        if span.failure:
            status += _STATUS_MESSAGE + _sized(span.failure.encode())
        encoded += _STATUS + _sized(status)
    return _SPANS + _sized(encoded)


def _event(event: SpanEvent) -> bytes:
    encoded = _EVENT_TIME + _64_BITS(event.at) + _EVENT_NAME + _sized(event.name.encode())
    return encoded + _attributes(_EVENT_ATTRIBUTES, event.attributes)


def encode_scope(version: str) -> bytes:
    """Who made the spans, to begin what ``encode_request`` joins."""
    name = _SCOPE_NAME + _sized(b"reverie")
    return _SCOPE + _sized(name + _SCOPE_VERSION + _sized(version.encode()))


def encode_resource(attributes: Mapping[str, str]) -> bytes:
    """What the spans are of, likewise."""
    return _RESOURCE + _sized(_attributes(_RESOURCE_ATTRIBUTES, tuple(attributes.items())))


def encode_request(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> bytes:
    """An ``ExportTraceServiceRequest``."""
    of_scope = _SCOPE_SPANS + _sized(scope + b"".join(spans))
    return _RESOURCE_SPANS + _sized(resource + of_scope)


def partial_success(body: bytes) -> tuple[int, str]:
    """How many spans a collector refused of those that it got, and why; 0 if it says nothing."""
    try:
        told: ExportTracePartialSuccess = ExportTraceServiceResponse.FromString(
            body
        ).partial_success
    except DecodeError:
        return 0, ""
    return max(0, told.rejected_spans), told.error_message
