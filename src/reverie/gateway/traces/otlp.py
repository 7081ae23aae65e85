"""Spans → the bytes of OTLP, and a collector's answer → what it says. Nothing else imports
OpenTelemetry's messages, which the extra ``otel`` brings.

Many spans have most attributes alike: these are encoded once. Protocol Buffers allow that, since
the fields of a message may be written in any order and piece by piece
(protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as Scope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as proto

from reverie.gateway.traces.attributes import Attributes, Value
from reverie.gateway.traces.spans import Span, SpanEvent
from reverie.trace_context import TraceContext

_SPANS = b"\x12"  # the field 2, with its length: ScopeSpans.spans, ResourceSpans.scope_spans
_RESOURCE_SPANS = b"\x0a"  # the field 1: ExportTraceServiceRequest.resource_spans
_HAS_REMOTE_PARENT = 0x100
_IS_REMOTE = 0x200
_ERROR = proto.Status(code=proto.Status.STATUS_CODE_ERROR)


def _bytes_of(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _value(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=map(_value, value)))


def _pairs(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in attributes]


@lru_cache(maxsize=2048)
def _shared(attributes: Attributes) -> bytes:
    return _bytes_of(proto.Span(attributes=_pairs(attributes)))


def _event(event: SpanEvent) -> proto.Span.Event:
    return proto.Span.Event(
        name=event.name, time_unix_nano=event.at, attributes=_pairs(event.attributes)
    )


def encode_span(span: Span, context: TraceContext, *, is_remote: bool = False) -> bytes:
    """One span, to be joined with others by ``encode_request``.

    Args:
        context: its trace.
        is_remote: its parent is in another process.
    """
    message = proto.Span(
        trace_id=context.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]
        start_time_unix_nano=span.began,
        end_time_unix_nano=max(span.began, span.ended),
        flags=1 | _HAS_REMOTE_PARENT | (_IS_REMOTE if is_remote else 0),
        trace_state=context.state,
    )
    if span.own:
        message.attributes.extend(_pairs(span.own))
    if span.events:
        message.events.extend(map(_event, span.events))
    if span.failure is not None:
        message.status.CopyFrom(_ERROR)
        message.status.message = span.failure
    return _SPANS + _sized(_bytes_of(message) + _shared(span.shared))


def encode_scope(version: str) -> bytes:
    """Who made the spans, to begin what ``encode_request`` joins."""
    scope = Scope(name="reverie", version=version)
    return _bytes_of(proto.ScopeSpans(scope=scope))


def encode_resource(attributes: Mapping[str, str]) -> bytes:
    """What the spans are of, likewise."""
    resource = Resource(attributes=_pairs(tuple(attributes.items())))
    return _bytes_of(proto.ResourceSpans(resource=resource))


def encode_request(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> bytes:
    """An ``ExportTraceServiceRequest``."""
    of_scope = _SPANS + _sized(scope + b"".join(spans))
    return _RESOURCE_SPANS + _sized(resource + of_scope)


def _sized(message: bytes) -> bytes:
    """A message with its length before it, as a varint."""
    left, prefix = len(message), bytearray()
    while left > 0x7F:
        prefix.append(left & 0x7F | 0x80)
        left >>= 7
    prefix.append(left)
    return bytes(prefix) + message


def partial_success(body: bytes) -> tuple[int, str]:
    """How many spans a collector refused of those that it got, and why; 0 if it says nothing."""
    try:
        told: ExportTracePartialSuccess = ExportTraceServiceResponse.FromString(
            body
        ).partial_success
    except DecodeError:
        return 0, ""
    return max(0, told.rejected_spans), told.error_message
