"""A collector that takes OTLP over HTTP: a real server that decodes the real protocol."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Answer = Callable[[], Awaitable[web.Response]]


class Export(NamedTuple):
    """One request that came."""

    path: str
    headers: Mapping[str, str]
    data: bytes
    """Decompressed."""
    message: ExportTraceServiceRequest


class ReceivedSpan:
    """One span, its attributes as Python's values."""

    def __init__(self, span: Any) -> None:
        self.raw = span
        self.name: str = span.name
        self.kind: int = span.kind
        self.id: bytes = span.span_id
        self.parent: bytes = span.parent_span_id
        self.trace: str = span.trace_id.hex()
        self.began: int = span.start_time_unix_nano
        self.ended: int = span.end_time_unix_nano
        self.attributes = {one.key: value_of(one.value) for one in span.attributes}
        self.events = [one.name for one in span.events]
        self.failed = span.status.code == 2
        self.why: str = span.status.message


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind)


class Collector:
    """Takes spans on a port of its own while it is entered."""

    def __init__(self) -> None:
        self.exports: list[Export] = []
        """Those that were taken."""
        self.refused = 0
        self.answers: list[Answer] = []
        """How to answer the next ones; then: by taking them."""
        self.always: Answer | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self.answers.pop(0) if self.answers else self.always
        if answer is not None:
            self.refused += 1
            return await answer()
        assert request.headers["Content-Type"] == "application/x-protobuf"
        assert request.headers["Content-Encoding"] == "gzip"
        data = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(data)
        self.exports.append(Export(request.path, dict(request.headers), data, message))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    @property
    def spans(self) -> list[ReceivedSpan]:
        return [
            ReceivedSpan(span)
            for export in self.exports
            for resource in export.message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, *names: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name in names]

    @property
    def roots(self) -> list[ReceivedSpan]:
        """The spans of requests."""
        return [span for span in self.spans if span.kind == 2]

    def children(self, parent: ReceivedSpan) -> list[ReceivedSpan]:
        """In the order in which they began."""
        found = [span for span in self.spans if span.parent == parent.id]
        return sorted(found, key=lambda span: span.began)

    def tree(self, span: ReceivedSpan) -> Any:
        """A span's name and those below it."""
        return (span.name, [self.tree(child) for child in self.children(span)])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Answer with this."""

    async def answer() -> web.Response:
        return web.Response(status=code, headers=headers, body=body)

    return answer


def never() -> Answer:
    """Take all the time there is."""

    async def answer() -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    return answer
