"""The way of spans to a collector that is well, slow, down, or odd."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from reverie.gateway.traces import exporter as module
from reverie.gateway.traces.tracer import Tracer, tracer_of
from reverie.settings import TracesSettings
from reverie.testing import ScriptedEngine
from tests.gateway.traces.collector import Answer, Collector, ReceivedSpan, never, status
from tests.harness import Gateway, StartGateway, chat

CHAT = "/v1/chat/completions"
SPANS = 7
"""Of one plain request."""


@pytest.fixture
async def gateway(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway
) -> Gateway:
    return await start_gateway(engine, traces={"endpoint": collector.url})


async def ask(gateway: Gateway, times: int = 1) -> None:
    for _ in range(times):
        answered, _, _ = await gateway.post(chat(), CHAT)
        assert answered == 200


async def counted(gateway: Gateway) -> dict[str, float]:
    """The exporter's metrics."""
    _, text, _ = await gateway.get("/metrics")
    found = {}
    for line in text.splitlines():
        if line.startswith("reverie_trace_spans"):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix("reverie_trace_spans_").replace("_total", "")] = float(value)
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    found = [record for record in caplog.records if record.name == "reverie.traces"]
    return [(record.getMessage(), getattr(record, "fields", {})) for record in found]


async def test_spans_of_several_requests_are_sent_together_and_counted(
    gateway: Gateway, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.5)
    await asyncio.gather(*(ask(gateway) for _ in range(5)))
    await collector.until(lambda: len(collector.roots) == 5)
    assert len(collector.exports) < 5
    assert {export.path for export in collector.exports} == {"/v1/traces"}
    async with asyncio.timeout(30):  # they are counted once the answer is read
        while (found := await counted(gateway))["exported"] < 5 * SPANS:
            await asyncio.sleep(0.01)
    assert found["exported"] == len(collector.spans) == 5 * SPANS
    assert sum(found[name] for name in found if name.startswith("dropped")) == 0


async def test_enough_of_them_are_sent_without_a_wait_for_more(
    gateway: Gateway, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 3600)
    monkeypatch.setattr(module, "_STEP_TRACES", 2)
    monkeypatch.setattr(module, "_BATCH_TRACES", 4)
    await ask(gateway, 4)
    await collector.until(lambda: len(collector.roots) == 4)
    assert len(collector.exports) == 1


@pytest.fixture
async def failed(collector: Collector) -> AsyncIterator[tuple[Tracer, asyncio.Future[None]]]:
    """A tracer of a request that has failed, and what settles it."""
    tracer = tracer_of(TracesSettings(endpoint=collector.url), {})
    assert tracer is not None
    tracer.start()
    record = tracer.record("req_1", {"path": CHAT, "method": "POST", "scheme": "http"}, None)
    assert record.trace is not None
    settled = asyncio.get_running_loop().create_future()
    record.trace.step_until("ledger settle", settled)
    record.close()
    yield tracer, settled
    await tracer.stop()


@pytest.mark.integration
async def test_a_trace_is_sent_once_its_request_is_settled(
    failed: tuple[Tracer, asyncio.Future[None]], collector: Collector
) -> None:
    _, settled = failed
    await asyncio.sleep(5 * module.INTERVAL)
    assert not collector.exports
    settled.set_result(None)
    root, step = await _spans(collector)
    assert (step.name, step.parent) == ("ledger settle", root.id)


@pytest.mark.integration
async def test_a_trace_does_not_wait_for_a_settlement_that_never_ends(
    failed: tuple[Tracer, asyncio.Future[None]],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_SETTLING", 0.05)
    [root] = await _spans(collector)
    assert root.name == f"POST {CHAT}"


@pytest.mark.integration
async def test_a_server_that_stops_sends_what_is_not_settled(
    failed: tuple[Tracer, asyncio.Future[None]], collector: Collector
) -> None:
    tracer, _ = failed
    await tracer.stop()
    assert len(collector.roots) == 1


async def _spans(collector: Collector) -> list[ReceivedSpan]:
    await collector.until(lambda: collector.exports)
    return collector.spans


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_what_may_be_sent_again_is(
    gateway: Gateway, collector: Collector, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answers = [status(code)] * 3
    with caplog.at_level(logging.INFO, "reverie.traces"):
        await ask(gateway)
        await collector.until(lambda: collector.roots)
        await gateway.until(lambda: len(lines(caplog)) == 2)
    assert collector.refused == 3
    assert len(collector.spans) == SPANS
    (outage, first), (recovery, second) = lines(caplog)
    assert (outage, first["reason"]) == ("spans can't be exported", f"HTTP {code}")
    assert (recovery, second["dropped"]) == ("spans are exported again", 0)


async def test_the_collector_s_own_pause_is_kept(gateway: Gateway, collector: Collector) -> None:
    began = time.monotonic()
    collector.answers = [status(503, {"Retry-After": "1"})]
    await ask(gateway)
    await collector.until(lambda: collector.roots)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("code", [400, 401, 404, 500])
async def test_what_is_refused_for_good_is_dropped_and_counted(
    gateway: Gateway, collector: Collector, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answers = [status(code)]
    with caplog.at_level(logging.INFO, "reverie.traces"):
        await ask(gateway)
        await collector.until(lambda: collector.refused == 1)
        await ask(gateway)
        await collector.until(lambda: collector.roots)
        await gateway.until(lambda: len(lines(caplog)) == 2)
    assert len(collector.roots) == 1
    found = await counted(gateway)
    assert found['dropped{reason="refused"}'] == SPANS
    assert [message for message, _ in lines(caplog)] == [
        "spans can't be exported",
        "spans are exported again",
    ]


async def test_what_the_collector_refuses_of_a_batch_is_told_and_counted(
    gateway: Gateway, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    collector.answers = [status(200, body=body)]
    with caplog.at_level(logging.INFO, "reverie.traces"):
        await ask(gateway)
        await gateway.until(lambda: bool(lines(caplog)))
    [(message, fields)] = lines(caplog)
    assert message == "the collector refused some spans"
    assert (fields["rejected"], fields["reason"]) == (2, "too old")
    found = await counted(gateway)
    assert (found["exported"], found['dropped{reason="refused"}']) == (SPANS - 2, 2)


async def test_an_answer_that_is_no_message_of_the_protocol_is_taken_for_well(
    gateway: Gateway, collector: Collector
) -> None:
    collector.answers = [status(200, body=b"\xff\xffgarbage" * 50)]
    await ask(gateway)
    await collector.until(lambda: collector.refused == 1)
    await ask(gateway)
    await collector.until(lambda: collector.roots)
    assert (await counted(gateway))["exported"] >= SPANS


async def _hang_up() -> web.Response:
    raise ConnectionResetError


async def test_a_collector_that_is_down_holds_up_no_request_and_costs_two_lines(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "MAX_AGE", 0.1)
    with socket.socket() as taken:  # nobody listens there, nor will
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        gateway = await start_gateway(engine, traces={"endpoint": url})
        with caplog.at_level(logging.INFO, "reverie.traces"):
            for _ in range(3):
                before = await counted(gateway)
                await ask(gateway)
                async with asyncio.timeout(30):
                    while (await counted(gateway)) == before:
                        await asyncio.sleep(0.01)
    [(message, fields)] = lines(caplog)
    assert message == "spans can't be exported"
    assert fields["endpoint"] == f"{url}/v1/traces"
    assert (await counted(gateway))['dropped{reason="unreachable"}'] >= SPANS


@pytest.mark.parametrize("slow", [never, lambda: _hang_up])
async def test_a_slow_collector_holds_up_neither_requests_nor_the_end(
    slow: Callable[[], Answer], collector: Collector, engine: ScriptedEngine,
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.1)
    collector.always = slow()
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    await ask(gateway, 3)
    await collector.until(lambda: collector.refused >= 1)
    await ask(gateway, 3)
    async with asyncio.timeout(20):  # far less than the ten seconds of each request to it
        gateway.server.stop()
        gateway.server.stop()
        await gateway.app.stop()


async def test_what_ended_last_is_sent_before_the_server_stops(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "INTERVAL", 3600)
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    await ask(gateway, 2)
    assert not collector.exports
    await gateway.app.stop()
    assert len(collector.roots) == 2
    assert len(collector.named("ledger settle")) == 2


async def test_spans_that_are_being_made_as_the_server_stops_are_sent_too(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "_SMALL", 0)
    compressing, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def compress(data: bytes, level: int) -> bytes:
        loop.call_soon_threadsafe(compressing.set)
        may_end.wait(30)
        return gzip.compress(data, level)

    monkeypatch.setattr(module, "gzip", SimpleNamespace(compress=compress))
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    await ask(gateway)
    await compressing.wait()
    loop.call_later(0.05, may_end.set)
    await gateway.app.stop()
    assert len(collector.roots) == 1


async def test_more_than_may_wait_is_dropped_and_counted(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "INTERVAL", 3600)
    monkeypatch.setattr(module, "_MAX_TRACES", 2)
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    await ask(gateway, 3)
    assert (await counted(gateway))['dropped{reason="queue_full"}'] == 1
    await gateway.app.stop()
    assert len(collector.roots) == 2


async def test_the_oldest_batches_give_way_where_a_collector_is_too_slow(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_MAX_QUEUE_BYTES", 3000)
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.1)
    collector.always = never()
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    await ask(gateway)
    await collector.until(lambda: collector.refused == 1)
    async with asyncio.timeout(30):
        while not (await counted(gateway))['dropped{reason="queue_full"}']:
            await ask(gateway)


async def test_a_trace_that_cannot_be_written_costs_no_other(
    gateway: Gateway, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans_of = module.spans_of
    failures = iter([ValueError("odd")])

    def fail_once(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return spans_of(*arguments)

    monkeypatch.setattr(module, "spans_of", fail_once)
    await ask(gateway, 2)
    await collector.until(lambda: len(collector.roots) == 1)
    assert (await counted(gateway))['dropped{reason="unencodable"}'] == 1


async def test_headers_for_the_collector_come_from_their_variable(
    collector: Collector, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine,
        traces={"endpoint": f"{collector.url}/otel/", "headers_env": "OURS"},
        environ={"OURS": "Authorization=Bearer%20s3cret, X-Scope-OrgID=1"},
    )
    await ask(gateway)
    await collector.until(lambda: collector.exports)
    [export] = collector.exports
    assert export.path == "/otel/v1/traces"
    assert export.headers["Authorization"] == "Bearer s3cret"
    assert export.headers["X-Scope-OrgID"] == "1"
    assert b"s3cret" not in export.data
