"""The bytes of OTLP: what opentelemetry's own exporter would send of the same spans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as proto
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from reverie.gateway.traces import otlp
from reverie.gateway.traces.spans import CLIENT, INTERNAL, SERVER, Alike, Span, SpanEvent
from reverie.trace_context import TraceContext

CONTEXT = TraceContext(b"\x01" * 16, b"\x02" * 8, True, "vendor=1")
KINDS = {INTERNAL: SpanKind.INTERNAL, SERVER: SpanKind.SERVER, CLIENT: SpanKind.CLIENT}
PLAIN = Span(Alike("queue", INTERNAL), b"\x03" * 8, b"\x02" * 8, 2_000, 3_000)
ROOT = Span(
    Alike("chat m", SERVER, (("b", True),)),
    b"\x02" * 8,
    b"\x09" * 8,
    1_000,
    9_000,
    (("i", -3),),
)
ATTEMPT = Span(
    Alike("chat m", CLIENT, (("text", "é" * 200), ("float", 0.5), ("many", ("a", "b")))),
    b"\x04" * 8,
    b"\x02" * 8,
    3_000,
    8_000,
    (("own", "x"),),
    (SpanEvent("first token", 4_000), SpanEvent("failover", 5_000, (("n", 1),))),
    "HTTP 500",
)
SPANS = [ROOT, PLAIN, ATTEMPT]


def theirs(span: Span) -> ReadableSpan:
    """The same as opentelemetry's SDK has it."""

    def context(span_id: bytes, *, is_remote: bool) -> SpanContext:
        return SpanContext(
            int.from_bytes(CONTEXT.trace_id, "big"),
            int.from_bytes(span_id, "big"),
            is_remote,
            TraceFlags(TraceFlags.SAMPLED),
            TraceState([("vendor", "1")]),
        )

    failed = span.failure is not None
    return ReadableSpan(
        span.alike.name,
        context(span.span_id, is_remote=False),
        context(span.parent_id, is_remote=span.alike.kind == SERVER),
        Resource({"service.name": "reverie"}),
        dict((*span.alike.attributes, *span.own)),
        [Event(one.name, dict(one.attributes), one.at) for one in span.events],
        kind=KINDS[span.alike.kind],
        status=Status(StatusCode.ERROR, span.failure) if failed else Status(),
        start_time=span.began,
        end_time=span.ended,
        instrumentation_scope=InstrumentationScope("reverie", "1"),
    )


def spans_in(message: ExportTraceServiceRequest) -> Any:
    return message.resource_spans[0].scope_spans[0].spans


def ours(spans: list[Span]) -> ExportTraceServiceRequest:
    encoded = [
        otlp.encode_span(span, CONTEXT, is_remote=span.alike.kind == SERVER) for span in spans
    ]
    resource = otlp.encode_resource({"service.name": "reverie"})
    data = otlp.encode_request(resource, otlp.encode_scope("1"), encoded)
    return ExportTraceServiceRequest.FromString(data)


def test_the_same_spans_are_the_same_message_as_opentelemetry_s() -> None:
    expected = encode_spans([theirs(span) for span in SPANS])
    for span in spans_in(expected):
        span.flags |= TraceFlags.SAMPLED  # which the protocol has there, and the SDK leaves out
        if not span.status.code:
            span.ClearField("status")  # which says the same
    assert ours(SPANS) == expected


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3).map(tuple),
)
ATTRIBUTES = st.lists(st.tuples(TEXTS, VALUES), max_size=4).map(tuple)
TIMES = st.integers(0, 2**64 - 1)
ALL_SPANS = st.builds(
    Span,
    alike=st.builds(Alike, TEXTS, st.sampled_from([*KINDS]), ATTRIBUTES),
    span_id=st.binary(min_size=8, max_size=8),
    parent_id=st.one_of(st.just(b""), st.binary(min_size=8, max_size=8)),
    began=TIMES,
    ended=TIMES,
    own=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, TEXTS, TIMES, ATTRIBUTES), max_size=2).map(tuple),
    failure=st.one_of(st.none(), TEXTS),
)


def pair(name: str, value: Any) -> KeyValue:
    if isinstance(value, tuple):
        texts = ArrayValue(values=[AnyValue(string_value=one) for one in value])
        return KeyValue(key=name, value=AnyValue(array_value=texts))
    fields = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
    return KeyValue(key=name, value=AnyValue(**{fields[type(value)]: value}))


def as_message(span: Span, state: str) -> proto.Span:
    """A span as the messages have it that are made of the protocol's own description."""
    message = proto.Span(
        trace_id=CONTEXT.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        trace_state=state,
        flags=0x301,
        name=span.alike.name,
        kind=span.alike.kind,  # type: ignore[arg-type]
        start_time_unix_nano=span.began,
        end_time_unix_nano=max(span.began, span.ended),
        attributes=[pair(*one) for one in (*span.alike.attributes, *span.own)],
        events=[
            proto.Span.Event(
                name=event.name,
                time_unix_nano=event.at,
                attributes=[pair(*one) for one in event.attributes],
            )
            for event in span.events
        ],
    )
    if span.failure is not None:
        message.status.code = proto.Status.STATUS_CODE_ERROR
        message.status.message = span.failure
    return message


@given(ALL_SPANS, st.sampled_from(["", "vendor=1"]))
def test_any_span_is_read_back_as_it_was(span: Span, state: str) -> None:
    encoded = otlp.encode_span(span, CONTEXT._replace(state=state), is_remote=True)
    data = otlp.encode_request(b"", b"", [encoded])
    [found] = spans_in(ExportTraceServiceRequest.FromString(data))
    assert found == as_message(span, state)


@pytest.mark.parametrize("count", [1, 2, 20, 2000])
def test_lengths_of_all_sizes_are_read_back(count: int) -> None:
    message = ours([ATTEMPT] * count)
    assert len(spans_in(message)) == count


def test_each_value_keeps_its_type() -> None:
    values = {"whole": 1, "broken": 1.0, "flag": True}
    [span] = spans_in(ours([replace(PLAIN, own=tuple(values.items()))]))
    found = {one.key: one.value.WhichOneof("value") for one in span.attributes}
    assert found == {"whole": "int_value", "broken": "double_value", "flag": "bool_value"}


def test_an_end_before_the_beginning_is_none() -> None:
    [span] = spans_in(ours([replace(PLAIN, ended=5)]))
    assert span.end_time_unix_nano == span.start_time_unix_nano


def test_what_is_no_message_says_nothing() -> None:
    assert otlp.partial_success(b"\xff") == (0, "")
    assert otlp.partial_success(b"") == (0, "")
