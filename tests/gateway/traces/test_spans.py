"""What a collector is shown of requests, by whole gateways over scripted engines."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from reverie.backends.base import Backend
from reverie.errors import BackendError
from reverie.gateway.record import RequestRecord
from reverie.gateway.traces.options import TraceOptions
from reverie.gateway.traces.spans import CLIENT, spans_of
from reverie.gateway.traces.trace import Trace
from reverie.store.limits import RateLimits
from reverie.testing import Script, ScriptedEngine
from reverie.testing.record import RecordedRequest
from reverie.trace_context import TraceContext, read_context
from tests.faults.ledger_tools import add_key, store_at
from tests.gateway.traces.collector import Collector, ReceivedSpan
from tests.harness import Gateway, StartGateway, chat

CHAT = "/v1/chat/completions"
KEYS = {"REVERIE_API_KEYS": "a-secret-key"}
KEY = {"Authorization": "Bearer a-secret-key"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SECRET = "planted-secret-in-the-text"

Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start(collector: Collector, start_gateway: StartGateway) -> Start:
    """Start a gateway that sends its traces to the collector."""

    async def start(*engines: ScriptedEngine, **more: Any) -> Gateway:
        traces = {"endpoint": collector.url, **more.pop("traces", {})}
        return await start_gateway(*engines, traces=traces, **more)

    return start


async def root_of(collector: Collector, number: int = 1) -> ReceivedSpan:
    """The span of the latest request of so many, once it has come."""
    await collector.until(lambda: len(collector.roots) >= number)
    return collector.roots[number - 1]


def attempts(collector: Collector) -> list[ReceivedSpan]:
    return sorted((s for s in collector.spans if s.kind == 3), key=lambda span: span.began)


def told(request: RecordedRequest) -> Any:
    """What an engine was told of the trace."""
    headers = [(n.lower().encode(), v.encode()) for n, v in request.headers.items()]
    return read_context(headers)


async def test_a_request_is_one_tree(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine)
    status, _, _ = await gateway.post(chat(), CHAT)
    assert status == 200
    root = await root_of(collector)
    assert collector.tree(root) == (
        "chat m",
        [
            ("ledger reserve", []),
            ("queue", []),
            ("chat m", [("prefill", []), ("decode", [])]),
            ("ledger settle", []),
        ],
    )
    assert {span.trace for span in collector.spans} == {root.trace}
    assert len({span.id for span in collector.spans}) == len(collector.spans)
    for parent in collector.spans:
        for child in collector.children(parent):
            assert parent.began <= child.began <= child.ended <= parent.ended


async def test_a_request_tells_what_was_asked_and_what_came(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(cached_tokens=4)
    gateway = await start(engine, environ=KEYS)
    body = chat(
        model="alias", max_tokens=7, temperature=0, top_p=0.5, seed=3, frequency_penalty=1,
        response_format={"type": "json_object"}, stream=True,
    )  # fmt: skip
    async with gateway.http.post(gateway.url + CHAT, json=body, headers=KEY) as response:
        await response.read()
        request_id = response.headers["X-Request-Id"]
    root = await root_of(collector)
    found = root.attributes
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "url.path": CHAT,
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": int(gateway.url.rpartition(":")[2]),
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "reverie",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.frequency_penalty": 1.0,
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.output_tokens": 2,
        "reverie.request_id": request_id,
        "reverie.key": "static-1",
        "reverie.backend": gateway.pool().backends[0].name,
        "reverie.outcome": "ok",
    }
    assert root.events == ["first token"]
    assert not root.failed
    [attempt] = attempts(collector)
    assert attempt.attributes["server.address"] == "127.0.0.1"
    assert attempt.attributes["server.port"] == int(engine.url.split(":")[2].split("/")[0])
    assert attempt.attributes["gen_ai.provider.name"] == "generic"


async def test_the_resource_names_this_server(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    environ = {"OTEL_SERVICE_NAME": "our-llm", "OTEL_RESOURCE_ATTRIBUTES": "team=a%20b"}
    gateway = await start(engine, environ=environ)
    await gateway.post(chat())
    await root_of(collector)
    [resource] = collector.exports[0].message.resource_spans
    found = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert found["service.name"] == "our-llm"
    assert found["team"] == "a b"
    assert found["service.instance.id"]


async def test_a_failover_before_the_answer_is_a_second_attempt(
    start: Start, collector: Collector
) -> None:
    async with ScriptedEngine(Script(status=500)) as bad, ScriptedEngine() as good:
        gateway = await start(bad, good)
        for number in itertools.count(1):  # until one began at the bad one
            await gateway.post(chat(f"{number}"), CHAT)
            root = await root_of(collector, number)
            if bad.requests:
                break
    first, second = [span for span in attempts(collector) if span.parent == root.id]
    assert first.failed
    assert first.attributes["error.type"] == "backend_error"
    assert "500" in first.why
    assert [name for name, _ in map(collector.tree, collector.children(first))] == ["prefill"]
    assert not second.failed
    assert root.events == ["failover", "first token"]
    assert not root.failed
    contexts = told(bad.requests[-1]), told(good.requests[-1])
    assert [context.span_id for context in contexts] == [first.id, second.id]
    assert {context.trace_id.hex() for context in contexts} == {root.trace}


async def test_a_failover_in_mid_answer_is_a_continuation(
    start: Start, collector: Collector
) -> None:
    words = tuple(f"w{number} " for number in range(8))
    async with ScriptedEngine() as one, ScriptedEngine() as two:
        one.scripts = [Script(tokens=words, die_after=3)]
        two.scripts = [Script(tokens=words, die_after=3)]
        one.script = two.script = Script(tokens=words)
        gateway = await start(one, two, backend={"kind": "vllm"})
        status, _, _ = await gateway.post(chat(), CHAT)
    assert status == 200
    root = await root_of(collector)
    assert "continuation" in root.events
    event = next(one for one in root.raw.events if one.name == "continuation")
    first, second, *_ = attempts(collector)
    assert first.failed
    names = [name for name, _ in map(collector.tree, collector.children(first))]
    assert names == ["prefill", "decode"]
    assert second.attributes["reverie.after_tokens"] == 3
    assert root.attributes["reverie.failovers"] >= 1
    assert event.time_unix_nano == second.began


def test_the_choices_of_one_request_are_no_failovers_of_each_other() -> None:
    context = TraceContext(b"t" * 16, b"s" * 8, sampled=True)
    trace = Trace(TraceOptions("http://collector/v1/traces"), context, lambda _: None)
    one, other = (cast(Backend, SimpleNamespace(name=n, kind="vllm", url="")) for n in "ab")
    first, of_another = trace.queue_entered(), trace.queue_entered()
    assert first is not None
    trace.asks(one, first, 0, None)
    trace.asks(other, of_another, 0, None)  # of another choice, and well
    first.end(BackendError("It failed."))
    again = trace.queue_entered(first)
    trace.asks(other, again, 0, None)
    root, *children = spans_of(RequestRecord("req_1", CHAT), trace, 0)
    latest = max(child.began for child in children if child.alike.kind == CLIENT)
    assert [(event.name, event.at) for event in root.events] == [("failover", latest)]


async def test_a_request_that_no_backend_answers_has_failed(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(status=503)
    gateway = await start(engine)
    status, _, _ = await gateway.post(chat(), CHAT)
    assert status >= 500
    root = await root_of(collector)
    assert root.failed
    assert root.attributes["http.response.status_code"] == status
    assert root.attributes["error.type"]
    assert "gen_ai.usage.output_tokens" not in root.attributes
    await collector.until(lambda: collector.named("ledger settle"))


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [({}, chat(), "invalid_api_key"), (KEY, chat(temperature=9), "invalid_request")],
)
async def test_what_is_refused_is_told_and_is_no_failure_of_the_server(
    engine: ScriptedEngine,
    start: Start,
    collector: Collector,
    headers: dict[str, str],
    body: Any,
    code: str,
) -> None:
    gateway = await start(engine, environ=KEYS)
    await gateway.post(body, CHAT, headers)
    root = await root_of(collector)
    assert collector.tree(root) == (f"POST {CHAT}", [])
    assert root.attributes["error.type"] == code
    assert root.attributes["reverie.outcome"] == "refused"
    assert not root.failed


async def test_what_a_limit_refuses_shows_the_ledger_s_step(
    engine: ScriptedEngine, start: Start, collector: Collector, tmp_path: Any
) -> None:
    gateway = await start(engine)
    async with store_at(f"sqlite:///{tmp_path}/reverie.db") as store:
        secret = add_key(store, "k", limits=RateLimits(rpm=1))
    bearer = {"Authorization": f"Bearer {secret}"}
    for expected in (200, 429):
        status, _, _ = await gateway.post(chat(), CHAT, bearer)
        assert status == expected
    root = await root_of(collector, 2)
    [step] = collector.children(root)
    assert step.name == "ledger reserve"
    assert step.failed
    assert step.attributes["error.type"] == "rate_limit_exceeded"


async def test_a_client_that_leaves_ends_the_spans_and_is_no_failure(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    gateway = await start(engine)
    async with gateway.http.post(gateway.url + CHAT, json=chat(stream=True)) as response:
        await response.content.readany()
        response.close()
    root = await root_of(collector)
    assert root.attributes["reverie.outcome"] == "cancelled"
    assert root.attributes["http.response.status_code"] == 499
    assert not root.failed
    [attempt] = attempts(collector)
    assert attempt.ended == root.ended
    assert not attempt.failed


async def test_a_client_that_leaves_the_queue_shows_how_long_it_waited(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    gateway = await start(engine, backend={"slots": 1})
    first = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.in_flight == 1)
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat()).encode()
    writer.write(
        b"POST /llm HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await gateway.until(lambda: gateway.pool().waiting == 1)
    writer.transport.abort()
    root = await root_of(collector)
    [queue] = collector.named("queue")
    assert queue.parent == root.id
    assert queue.ended == root.ended
    engine.resume()
    await first


async def test_a_wait_in_the_queue_has_its_place_in_it(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    gateway = await start(engine, backend={"slots": 1})
    first = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.stalled == 1)
    second = asyncio.create_task(gateway.post(chat()))
    await gateway.until(lambda: gateway.pool().waiting == 1)
    engine.script = Script()
    engine.resume()
    await asyncio.gather(first, second)
    await root_of(collector, 2)
    positions = [s.attributes.get("reverie.queue.position") for s in collector.named("queue")]
    assert sorted(positions, key=str) == [1, None]


async def test_each_choice_is_an_attempt_of_its_own(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine)
    await gateway.post(chat(n=2), CHAT)
    root = await root_of(collector)
    assert len(attempts(collector)) == 2
    assert root.attributes["gen_ai.request.choice.count"] == 2
    assert root.attributes["gen_ai.response.finish_reasons"] == ["stop", "stop"]
    assert root.attributes["gen_ai.usage.output_tokens"] == 4
    assert root.events == ["first token"]


@pytest.mark.parametrize(
    ("path", "body", "task", "name"),
    [
        ("/v1/embeddings", {"input": "Hello", "dimensions": 2}, "embed", "embeddings m"),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, "rerank", "rerank m"),
        ("/tokenize", {"content": "Hello"}, "generate", "tokenize m"),
        ("/v1/completions", {"prompt": "Hello"}, "generate", "text_completion m"),
    ],
)
async def test_other_tasks_have_names_of_their_own(
    engine: ScriptedEngine, start: Start, collector: Collector,
    path: str, body: Any, task: str, name: str,
) -> None:  # fmt: skip
    backends = [{"url": engine.url, "kind": "vllm"}]
    gateway = await start(models=[{"name": "m", "task": task, "backends": backends}])
    status, _, _ = await gateway.post(body, path)
    assert status == 200
    root = await root_of(collector)
    assert root.name == name
    assert root.attributes["gen_ai.operation.name"] == name.split()[0]
    for attempt in attempts(collector):
        assert attempt.name == name
        generates = task == "generate"
        assert bool(collector.children(attempt)) == generates
    if task == "embed":
        assert root.attributes["gen_ai.embeddings.dimension.count"] == 2


async def test_what_is_generated_once_for_two_requests_is_a_span_of_the_first(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine)
    key = {"Idempotency-Key": "one"}
    for _ in range(2):
        status, _, _ = await gateway.post(chat(), CHAT, key)
        assert status == 200
    second = await root_of(collector, 2)
    await collector.until(lambda: len(collector.named("decode")) == 1)
    first = next(root for root in collector.roots if root.id != second.id)
    [generated] = collector.children(first)
    assert (first.name, generated.name, second.name) == ("chat m",) * 3
    assert first.trace == generated.trace != second.trace
    names = [child.name for child in collector.children(generated)]
    assert names == ["ledger reserve", "queue", "chat m", "ledger settle"]
    assert generated.attributes["gen_ai.usage.output_tokens"] == 2
    assert "gen_ai.usage.output_tokens" not in first.attributes
    replayed = {root.attributes["reverie.replayed"]: root for root in collector.roots}
    assert replayed[True].events == ["replay"]
    assert replayed[False].events == []


# Whose trace it is ------------------------------------------------------------------------


async def test_a_caller_on_this_machine_says_which_trace_it_is(
    engine: ScriptedEngine, start: Start, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(engine, traces={"sample": 0})
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    with caplog.at_level(logging.INFO, "reverie.request"):
        await gateway.post(chat(), CHAT, headers)
    root = await root_of(collector)
    assert (root.trace, root.parent.hex()) == (TRACE, SPAN)
    assert root.raw.trace_state == "vendor=1"
    assert root.raw.flags == 0x301  # sampled; its parent is known to be remote
    context = told(engine.requests[0])
    assert context.trace_id.hex() == TRACE
    assert context.span_id == attempts(collector)[0].id
    assert context.sampled
    lines = [record.fields for record in caplog.records if record.name == "reverie.request"]
    assert [line["trace"] for line in lines] == [TRACE]
    assert "tracestate" not in {name.lower() for name in engine.requests[0].headers}


async def test_a_caller_s_word_that_a_trace_is_not_sampled_is_kept(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine)
    await gateway.post(chat(), CHAT, {"traceparent": f"00-{TRACE}-{SPAN}-00"})
    await gateway.post(chat(), CHAT)
    root = await root_of(collector)
    assert root.trace != TRACE
    assert len(collector.roots) == 1
    context = told(engine.requests[0])
    assert context.trace_id.hex() == TRACE
    assert not context.sampled


async def test_a_malformed_traceparent_begins_a_new_trace(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine)
    await gateway.post(chat(), CHAT, {"traceparent": f"00-{TRACE}-{'0' * 16}-01"})
    root = await root_of(collector)
    assert root.trace != TRACE
    assert root.parent == b""


async def test_a_stranger_says_nothing_of_the_trace(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    keyed = await start(engine, environ=KEYS)
    open_to_all = await start(engine, server={"no_auth": True})
    assert (await keyed.post(chat(), CHAT, parent))[0] == 401
    forwarded = {**parent, "X-Forwarded-For": "192.0.2.1"}
    assert (await open_to_all.post(chat(), CHAT, forwarded))[0] == 200
    assert (await keyed.post(chat(), CHAT, {**parent, **KEY}))[0] == 200
    await root_of(collector, 3)
    by_status = {root.attributes["reverie.outcome"]: root for root in collector.roots}
    assert by_status["refused"].trace != TRACE
    of_trace = [root for root in collector.roots if root.trace == TRACE]
    assert [root.attributes["reverie.key"] for root in of_trace] == ["static-1"]


async def test_the_share_of_requests_that_is_traced_is_as_configured(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateway = await start(engine, traces={"sample": 0.5})
    await asyncio.gather(*(gateway.post(chat(), CHAT) for _ in range(60)))
    sampled = {told(r).trace_id.hex() for r in engine.requests if told(r).sampled}
    await collector.until(lambda: len(collector.roots) >= len(sampled))
    assert {root.trace for root in collector.roots} == sampled
    assert 0 < len(sampled) < 60  # misses once in 10^17 runs


# What stays here --------------------------------------------------------------------------


async def test_no_text_leaves_unless_it_is_asked_for(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(tokens=("Hello ", SECRET))
    gateway = await start(engine, environ=KEYS)
    body = chat(f"Say {SECRET}", stop=[f"{SECRET}-stop"], user=SECRET)
    status, answer, _ = await gateway.post(body, CHAT, {**KEY, "X-Own": SECRET})
    assert status == 200
    assert SECRET in answer["choices"][0]["message"]["content"]
    await root_of(collector)
    for export in collector.exports:
        assert SECRET.encode() not in export.data
        assert b"a-secret-key" not in export.data


async def test_prompt_and_answer_are_sent_where_the_operator_wants_them(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    engine.script = Script(tokens=("It is ", "sunny"), reasoning=("Hm. ",))
    gateway = await start(engine, traces={"content": True})
    await gateway.post(chat("Weather?", n=2), CHAT)
    root = await root_of(collector)
    assert json.loads(root.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]}
    ]
    answer = {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm. "},
            {"type": "text", "content": "It is sunny"},
        ],
        "finish_reason": "stop",
    }
    assert json.loads(root.attributes["gen_ai.output.messages"]) == [answer, answer]


async def test_the_newest_conventions_are_used_where_they_are_asked_for(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    gateways = [
        await start(engine, traces={"content": True, "conventions": version})
        for version in ("1.41", "latest")
    ]
    for gateway in gateways:
        await gateway.post(chat(top_k=5), CHAT)
    await root_of(collector, 2)
    by_type = {
        type(root.attributes["gen_ai.request.top_k"]): json.loads(
            root.attributes["gen_ai.output.messages"]
        )
        for root in collector.roots
    }
    assert "finish_reason" in by_type[float][0]
    assert "finish_reason" not in by_type[int][0]


async def test_what_an_engine_is_asked_has_no_trace_while_traces_are_off(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    await gateway.post(chat(), CHAT, {"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert "traceparent" not in {name.lower() for name in engine.requests[0].headers}


async def test_traces_hold_up_no_connection_of_a_client(
    engine: ScriptedEngine, start: Start, collector: Collector
) -> None:
    """The header that is told to engines never gets into a second request."""
    gateway = await start(engine)
    connector = aiohttp.TCPConnector(limit=1, family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector) as one_connection:
        for _ in range(3):
            async with one_connection.post(gateway.url + CHAT, json=chat()) as response:
                await response.read()
    await root_of(collector, 3)
    contexts = [told(request) for request in engine.requests]
    assert len({context.trace_id for context in contexts}) == 3
    assert {context.span_id for context in contexts} == {s.id for s in attempts(collector)}
