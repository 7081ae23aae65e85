"""The bytes of OTLP: what opentelemetry's own exporter would send of the same spans."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from reverie.gateway.traces import otlp
from reverie.gateway.traces.spans import CLIENT, INTERNAL, SERVER, Span, SpanEvent
from reverie.trace_context import TraceContext

CONTEXT = TraceContext(b"\x01" * 16, b"\x02" * 8, True, "vendor=1")
KINDS = {INTERNAL: SpanKind.INTERNAL, SERVER: SpanKind.SERVER, CLIENT: SpanKind.CLIENT}
SPANS = [
    Span("chat m", SERVER, b"\x02" * 8, b"\x09" * 8, 1_000, 9_000, (("b", True),), (("i", -3),)),
    Span("queue", INTERNAL, b"\x03" * 8, b"\x02" * 8, 2_000, 3_000),
    Span(
        "chat m",
        CLIENT,
        b"\x04" * 8,
        b"\x02" * 8,
        3_000,
        8_000,
        (("text", "é" * 200), ("float", 0.5), ("many", ("a", "b"))),
        (("own", "x"),),
        (SpanEvent("first token", 4_000), SpanEvent("failover", 5_000, (("n", 1),))),
        "HTTP 500",
    ),
]


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
        span.name,
        context(span.span_id, is_remote=False),
        context(span.parent_id, is_remote=span.kind == SERVER),
        Resource({"service.name": "reverie"}),
        dict((*span.shared, *span.own)),
        [Event(one.name, dict(one.attributes), one.at) for one in span.events],
        kind=KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.failure) if failed else Status(),
        start_time=span.began,
        end_time=span.ended,
        instrumentation_scope=InstrumentationScope("reverie", "1"),
    )


def spans_in(message: ExportTraceServiceRequest) -> Any:
    return message.resource_spans[0].scope_spans[0].spans


def ours(spans: list[Span]) -> ExportTraceServiceRequest:
    encoded = [otlp.encode_span(span, CONTEXT, is_remote=span.kind == SERVER) for span in spans]
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


@pytest.mark.parametrize("count", [1, 2, 20, 2000])
def test_lengths_of_all_sizes_are_read_back(count: int) -> None:
    message = ours([SPANS[2]] * count)
    assert len(spans_in(message)) == count


def test_each_value_keeps_its_type() -> None:
    values = {"whole": 1, "broken": 1.0, "flag": True}
    [span] = spans_in(ours([SPANS[1]._replace(own=tuple(values.items()))]))
    found = {one.key: one.value.WhichOneof("value") for one in span.attributes}
    assert found == {"whole": "int_value", "broken": "double_value", "flag": "bool_value"}


def test_an_end_before_the_beginning_is_none() -> None:
    [span] = spans_in(ours([SPANS[1]._replace(ended=5)]))
    assert span.end_time_unix_nano == span.start_time_unix_nano


def test_what_is_no_message_says_nothing() -> None:
    assert otlp.partial_success(b"\xff") == (0, "")
    assert otlp.partial_success(b"") == (0, "")
