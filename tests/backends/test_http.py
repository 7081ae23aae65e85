"""The HTTP backend against a scripted engine: answers, faults, time limits, connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from reverie.backends.base import Enough
from reverie.backends.http import HttpBackend
from reverie.errors import (
    BackendError,
    BackendTimeout,
    ConnectionLost,
    ContextLengthExceeded,
    ModelError,
    ModelLoading,
    Overloaded,
    RefusedByBackend,
    ReverieError,
)
from reverie.events import Delta, Event, Finish, ToolCallDelta, Usage
from reverie.pending import Pending
from reverie.request import GenerateRequest
from reverie.settings import BackendSettings
from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.backends.batches import batches_of
from tests.backends.peers import Peer, Serve

Ask = Callable[..., GenerateRequest]
Start = Callable[..., Awaitable[HttpBackend]]
Collect = Callable[..., Awaitable[list[Event]]]

HELLO = [Delta("Hello"), Delta(" world")]
END = [Finish("stop"), Usage(10, 2)]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as scripted:
        yield scripted


@pytest.fixture
async def backend(engine: ScriptedEngine, start_backend: Start) -> HttpBackend:
    return await start_backend(engine.url)


# Answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    ["text/plain", "text/plain; charset=utf-8", "application/x-ndjson", "application/json", ""],
)
@pytest.mark.parametrize("split", [None, 1])
async def test_an_answer_is_read_whatever_its_label(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, label: str, split: int | None
) -> None:
    engine.script = Script(headers={"Content-Type": label}, split=split)
    assert await collect(backend) == HELLO + END
    engine.script = Script(headers={"Content-Type": label}, split=split, force_json=True)
    assert await collect(backend) == [Delta("Hello world", tokens=1), *END]


async def test_one_body_that_is_labelled_as_a_stream_is_read(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(headers={"Content-Type": "text/event-stream"}, force_json=True)
    assert text(await collect(backend)) == "Hello world"


async def test_a_true_usage_that_comes_late_is_waited_for(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    zeros = b'"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
    first = (
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],' + zeros + b"}\n\n"
    )
    late = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
    stream = {"Content-Type": "text/event-stream"}
    engine.script = Script(body=first + late, headers=stream, cuts=[len(first)], gap=0.6)
    assert (await collect(backend))[-1] == Usage(7, 3)


async def test_an_answer(engine: ScriptedEngine, backend: HttpBackend, collect: Collect) -> None:
    assert await collect(backend) == HELLO + END
    await engine.wait_for(lambda e: e.completed == 1)


async def test_a_batch_is_what_one_read_brought(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(tokens=("a", "b", "c", "d"), batch=2)
    batches: list[list[Event]] = []
    await backend.generate(ask(), batches.append)
    assert batches[0] == [Delta("a"), Delta("b")]
    assert batches[1] == [Delta("cd", tokens=2, pieces=["c", "d"])]
    engine.script = Script(tokens=("a", "b", "c", "d"), batch=None)
    batches = []
    await backend.generate(ask(), batches.append)
    rest = Delta("cd", tokens=2, pieces=["c", "d"])  # those like the second, which had no role
    assert batches == [[Delta("a"), Delta("b"), rest, Finish("stop"), Usage(10, 4)]]


async def test_pieces_of_an_answer_that_is_not_streamed_are_one_where_they_came_together(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(tokens=("a", "b", "c", "d"), batch=None)
    events = await collect(backend, stream=False)
    assert events == [Delta("abcd", tokens=4), Finish("stop"), Usage(10, 4)]


async def test_pieces_that_are_counted_at_a_stop_string_or_a_seam_stay_apart(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(tokens=("a", "b", "c", "d"), batch=None)
    resumed = await collect(backend, stream=False, answer_so_far="a")
    assert resumed[:3] == [*map(Delta, "bcd")]
    stopped = await collect(backend, stream=False, stop=("c",), tells_stop=True)
    assert stopped[:3] == [Delta("a"), Delta("b"), Finish("stop", "c")]
    assert stopped[3].completion_tokens == 3  # type: ignore[union-attr]


async def test_a_piece_in_the_midst_of_an_answer_wakes_no_task(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(tokens=("a", "b", "c", "d"), gap=0.02)
    tasks: list[object] = []
    await backend.generate(ask(), lambda _: tasks.append(asyncio.current_task()))
    assert tasks[1:] == [None, None, None, asyncio.current_task()]


async def test_no_more_is_read_while_the_taker_waits(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(tokens=("word ",) * 10_000, batch=64)
    took: list[Event] = []
    free = asyncio.Event()

    def take(batch: list[Event]) -> Pending:
        took.extend(batch)
        return free.wait

    task = asyncio.create_task(backend.generate(ask(max_tokens=10_000), take))
    while not took:
        await asyncio.sleep(0.01)
    first = len(took)
    await asyncio.sleep(0.1)
    assert len(took) == first
    free.set()
    await task
    assert sum(event.tokens for event in took if isinstance(event, Delta)) == 10_000


async def test_what_the_taker_raises_ends_the_answer_and_is_raised(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(stall_after=1)

    def take(batch: list[Event]) -> Pending:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await backend.generate(ask(), take)
    await engine.wait_for(lambda e: e.cancelled == 1 and e.connections == 0)


async def test_a_taker_that_has_enough_stops_the_engine(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(stall_after=1)

    def take(batch: list[Event]) -> Pending:
        raise Enough

    await backend.generate(ask(), take)
    await engine.wait_for(lambda e: e.cancelled == 1 and e.connections == 0)


async def test_a_token_is_yielded_before_the_next_one_exists(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    async with aclosing(batches_of(backend, ask())) as batches:
        assert await anext(batches) == [Delta("a")]
        engine.resume()
        assert [event async for batch in batches for event in batch][-3:] == [Delta("b"), *END]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("crlf", [False, True])
async def test_a_body_in_pieces_of_any_size(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, size: int, crlf: bool
) -> None:
    engine.script = Script(
        tokens=("é", "\N{GRINNING FACE}", b"\xf0\x9f", b"\x98\x80"),
        split=size,
        crlf=crlf,
        comments=True,
    )
    events = await collect(backend)
    assert text(events) == "é\N{GRINNING FACE}\N{GRINNING FACE}"
    assert events[-2:] == [Finish("stop"), Usage(10, 4)]


async def test_reasoning_and_tool_calls(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    call = ToolCall(name="f", arguments=('{"a"', ":1}"), id="call_x")
    engine.script = Script(reasoning=("hm",), tokens=(), tool_calls=(call,))
    events = await collect(backend, tools=[{"type": "function", "function": {"name": "f"}}])
    pieces = [piece for event in events if isinstance(event, Delta) for piece in event.tool_calls]
    assert events[0] == Delta(reasoning="hm")
    assert pieces[0] == ToolCallDelta(0, "call_x", "f", pieces[0].arguments)
    assert "".join(piece.arguments for piece in pieces) == '{"a":1}'
    assert isinstance(events[-2], Finish)
    assert events[-2].reason == "tool_calls"


async def test_logprobs(engine: ScriptedEngine, backend: HttpBackend, collect: Collect) -> None:
    events = await collect(backend, logprobs=True, top_logprobs=2)
    first = events[0]
    assert isinstance(first, Delta)
    assert first.logprobs[0].token == "Hello"
    assert len(first.logprobs[0].top_logprobs) == 2


async def test_an_engine_that_ignores_stream(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(force_json=True, finish_reason="length", cached_tokens=4)
    assert await collect(backend) == [Delta("Hello world"), Finish("length"), Usage(10, 2, 4)]


async def test_an_engine_that_reports_no_usage(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(usage=False)
    assert (await collect(backend))[-2:] == [Finish("stop"), Usage(0, 2, estimated=True)]


async def test_a_forced_tool_call_on_llamacpp(
    engine: ScriptedEngine, start_backend: Start, collect: Collect
) -> None:
    engine.script = Script(tokens=('{"name"', ': "f", "argum', 'ents": {"a"', ": {}}", "}"))
    backend = await start_backend(engine.url, kind="llamacpp")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    events = await collect(backend, tools=tools, tool_choice="required")
    pieces = [piece for event in events if isinstance(event, Delta) for piece in event.tool_calls]
    assert pieces[0].name == "f"
    assert "".join(piece.arguments for piece in pieces) == '{"a": {}}'
    assert text(events) == ""
    assert events[-2:] == [Finish("tool_calls"), Usage(10, 5)]


async def test_only_known_fields_and_headers_are_sent(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    await collect(backend)
    recorded = engine.requests[0]
    assert recorded.path == "/v1/chat/completions"
    assert recorded.body["model"] == "up"
    assert recorded.body["stream"] is True
    assert set(recorded.headers) == {
        "host",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "user-agent",
    }
    assert recorded.headers["accept-encoding"] == "identity"


# The truth about the end --------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        Script(die_after=1, die_how="reset"),
        Script(die_after=1, die_how="close"),
        Script(die_after=1, die_how="end"),
        Script(no_finish=True),
        Script(no_finish=True, no_done=True),
        Script(force_json=True, die_at_byte=40),
        Script(error_in_stream={"message": "secret"}, error_after=1),
        Script(headers={"Content-Type": "text/event-stream"}, body=b"data: {bad\n\n"),
        Script(headers={"Content-Type": "text/event-stream"}, body=b"x" * 1_100_000),
        Script(headers={"Content-Type": "application/json"}, body=b'{"error":{"message":"no"}}'),
    ],
)
async def test_a_cut_or_broken_answer_never_looks_complete(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, script: Script
) -> None:
    engine.script = script
    with pytest.raises(BackendError) as caught:
        await collect(backend)
    assert "secret" not in caught.value.message + caught.value.reason
    engine.script = Script()
    assert await collect(backend) == HELLO + END


@pytest.mark.parametrize("die_how", ["reset", "close", "end"])
async def test_every_cut_before_the_finish_reason_is_a_failure(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, die_how: Any
) -> None:
    for offset in range(0, 600, 23):
        engine.script = Script(tokens=("Hello", " world", "!") * 3, die_at_byte=offset)
        with pytest.raises(BackendError):
            await collect(backend)


@pytest.mark.parametrize("script", [Script(no_done=True), Script(usage=False, no_done=True)])
async def test_nothing_is_missed_after_the_finish_reason(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, script: Script
) -> None:
    engine.script = script
    assert (await collect(backend))[:3] == [*HELLO, Finish("stop")]


FINISHED = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize("die_how", ["reset", "close"])
async def test_a_connection_cut_after_the_finish_reason_is_no_failure(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, die_how: Any
) -> None:
    engine.script = Script(raw=HEAD + FINISHED, die_how=die_how)
    assert await collect(backend) == [Delta("x"), Finish("stop"), Usage(0, 1, estimated=True)]


# Errors before the answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "error_class"),
    [
        (Script(status=400), RefusedByBackend),
        (
            Script(
                status=400,
                error={
                    "type": "exceed_context_size_error",
                    "message": "too long",
                    "n_prompt_tokens": 9,
                    "n_ctx": 8,
                },
            ),
            ContextLengthExceeded,
        ),
        (Script(status=401), BackendError),
        (Script(status=404), BackendError),
        (Script(status=429, retry_after=7), Overloaded),
        (Script(status=500), BackendError),
        (Script(status=503), Overloaded),
        (Script(status=503, error={"message": "Loading model"}), ModelLoading),
        (Script(status=504), BackendTimeout),
        (Script(status=302, headers={"Location": "http://127.0.0.1:1/"}), BackendError),
        (Script(status=500, body=b"x" * 300_000), BackendError),
        (Script(html=True), BackendError),
        (Script(status=502, html=True), BackendError),
        (Script(raw=b""), ConnectionLost),
        (Script(raw=b"", die_how="close"), ConnectionLost),
        (Script(raw=b"SSH-2.0-nonsense\r\n\r\n"), ConnectionLost),
        (Script(raw=HEAD.replace(b"9999", b"banana") + FINISHED), ConnectionLost),
        (
            Script(
                raw=b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"
            ),
            ConnectionLost,
        ),
    ],
)
async def test_errors_are_translated(
    engine: ScriptedEngine,
    backend: HttpBackend,
    collect: Collect,
    script: Script,
    error_class: type[ReverieError],
) -> None:
    engine.script = script
    with pytest.raises(ReverieError) as caught:
        await collect(backend)
    assert type(caught.value) is error_class
    if script.retry_after:
        assert caught.value.retry_after == script.retry_after
    await engine.wait_for(lambda e: e.in_flight == 0)
    engine.script = Script()
    assert await collect(backend) == HELLO + END


async def test_a_server_that_is_not_there(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.kill()
    with pytest.raises(BackendError, match="can't be reached"):
        await collect(backend)
    await engine.restart()
    assert await collect(backend) == HELLO + END


async def test_a_host_that_does_not_resolve(start_backend: Start, collect: Collect) -> None:
    backend = await start_backend("http://engine.invalid/v1")
    with pytest.raises(BackendError, match="can't be reached"):
        await collect(backend)


async def test_a_server_that_speaks_no_tls(
    engine: ScriptedEngine, start_backend: Start, collect: Collect
) -> None:
    backend = await start_backend(engine.url.replace("http:", "https:"), connect_timeout=0.1)
    with pytest.raises(BackendError, match="can't be reached"):
        await collect(backend)


# Time limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        Script(delay_headers=60),
        Script(first_delay=60),
        Script(stall_after=0),
        Script(stall_after=0, stall_pings=0.01),
        Script(status=500, delay_headers=60),
    ],
)
async def test_no_first_token_in_time(
    engine: ScriptedEngine, start_backend: Start, collect: Collect, script: Script
) -> None:
    engine.script = script
    backend = await start_backend(engine.url, first_token_timeout=0.1)
    with pytest.raises(BackendTimeout):
        await collect(backend)
    await engine.wait_for(lambda e: e.connections == 0)


def at_work(part: int) -> bytes:
    """What llama.cpp sends after each batch of a prompt."""
    return (
        b'data: {"choices":[],"prompt_progress":{"total":99,"cache":0,"processed":%d}}\n\n' % part
    )


async def test_a_long_prompt_has_time_while_the_engine_tells_of_its_work(
    engine: ScriptedEngine, start_backend: Start, collect: Collect
) -> None:
    reports = [at_work(part) for part in range(10, 22)]
    engine.script = Script(body=b"".join([*reports, FINISHED]), split=len(reports[0]), gap=0.1)
    backend = await start_backend(engine.url, first_token_timeout=0.9)
    assert text(await collect(backend)) == "x"


async def test_an_engine_that_falls_silent_in_the_midst_of_a_prompt(
    engine: ScriptedEngine, start_backend: Start, collect: Collect
) -> None:
    engine.script = Script(body=at_work(9) + FINISHED, cuts=(len(at_work(9)),), gap=60)
    backend = await start_backend(engine.url, first_token_timeout=0.1)
    with pytest.raises(BackendTimeout):
        await collect(backend)


@pytest.mark.parametrize("pings", [None, 0.01])
async def test_silence_in_the_midst_of_an_answer(
    engine: ScriptedEngine, start_backend: Start, ask: Ask, pings: float | None
) -> None:
    engine.script = Script(stall_after=1, stall_pings=pings)
    backend = await start_backend(engine.url, stall_timeout=0.1)
    seen: list[Event] = []
    with pytest.raises(BackendTimeout):
        async for batch in batches_of(backend, ask()):
            seen += batch
    assert seen == [Delta("Hello")]
    await engine.wait_for(lambda e: e.cancelled == 1 and e.connections == 0)


async def test_a_slow_consumer_is_no_silent_engine(
    engine: ScriptedEngine, start_backend: Start, ask: Ask
) -> None:
    engine.script = Script(tokens=("a", "b", "c"), stall_after=2)
    backend = await start_backend(engine.url, stall_timeout=0.2)
    seen: list[Event] = []
    async for batch in batches_of(backend, ask()):
        seen += batch
        if len(seen) <= 2:
            await asyncio.sleep(0.3)
        if len(seen) == 2:
            engine.resume()
    assert text(seen) == "abc"


async def test_usage_that_is_not_sent_does_not_hold_the_answer_up(
    engine: ScriptedEngine,
    backend: HttpBackend,
    collect: Collect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reverie.backends.passage._USAGE_TIMEOUT", 0.05)
    body = b"%x\r\n%s\r\n" % (len(FINISHED), FINISHED)
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + body
        )
        await release.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lingering = HttpBackend(
        "b",
        BackendSettings(url=f"http://127.0.0.1:{port}/v1"),
        model="m",
        first_token_timeout=10,
        stall_timeout=10,
    )
    await lingering.start(lambda: None)
    try:
        events = await collect(lingering)
    finally:
        await lingering.stop()
        release.set()
        server.close()
        await server.wait_closed()
    assert events == [Delta("x"), Finish("stop"), Usage(0, 1, estimated=True)]


# Leaving ------------------------------------------------------------------------------------


async def test_closing_the_iterator_stops_the_engine(
    engine: ScriptedEngine, backend: HttpBackend, ask: Ask
) -> None:
    engine.script = Script(stall_after=1)
    async with aclosing(batches_of(backend, ask())) as batches:
        assert await anext(batches) == [Delta("Hello")]
    await engine.wait_for(lambda e: e.cancelled == 1 and e.connections == 0)


@pytest.mark.parametrize(
    "script", [Script(delay_headers=60), Script(stall_after=0), Script(stall_after=1)]
)
async def test_cancelling_the_task_stops_the_engine(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, script: Script
) -> None:
    engine.script = script
    task = asyncio.create_task(collect(backend))
    await engine.wait_for(lambda e: e.generations == 1 and bool(e.stalled or script.delay_headers))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.wait_for(lambda e: e.cancelled == 1 and e.connections == 0)
    engine.script = Script()
    assert await collect(backend) == HELLO + END


@pytest.mark.parametrize("script", [Script(delay_headers=60), Script(stall_after=1)])
@pytest.mark.parametrize("reused", [False, True])
async def test_stopping_ends_what_runs_and_refuses_what_comes(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, script: Script, reused: bool
) -> None:
    if reused:
        await collect(backend)
    engine.script = script
    task = asyncio.create_task(collect(backend))
    await engine.wait_for(lambda e: e.in_flight == 1 and bool(e.stalled or script.delay_headers))
    assert backend.ready
    await backend.stop()
    await backend.stop()
    assert not backend.ready
    with pytest.raises(BackendError):
        await task
    with pytest.raises(BackendError):
        await collect(backend)
    await engine.wait_for(lambda e: e.connections == 0)


# Connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [Script(), Script(batch=None), Script(force_json=True)])
async def test_a_tcp_connection_is_used_again(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect, script: Script
) -> None:
    engine.script = script
    for _ in range(3):
        await collect(backend)
    assert [recorded.connection for recorded in engine.requests] == [1, 1, 1]


@pytest.mark.integration
async def test_an_answer_ends_with_its_usage_and_its_connection_is_used_again_after_the_rest(
    serve: Serve, start_backend: Start, collect: Collect
) -> None:
    collected = asyncio.Event()
    usage = b'{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":1}}'
    stream = (
        b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
        b"data: " + usage + b"\n\n"
    )

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            peer.send(b"%x\r\n%b\r\n" % (len(stream), stream))
            await collected.wait()
            peer.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    peers = await serve(handler)
    backend = await start_backend(peers.url, connect_timeout=5)
    assert await collect(backend) == [Delta("Hi"), Finish("stop"), Usage(10, 1)]
    collected.set()
    await asyncio.sleep(0.05)  # the rest comes
    await collect(backend)
    assert peers.opened == 1


async def test_a_reused_connection_that_dies_unanswered_is_replaced(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    await collect(backend)
    engine.scripts = [Script(raw=b"")]
    assert await collect(backend) == HELLO + END
    assert [recorded.connection for recorded in engine.requests] == [1, 1, 2]


async def test_a_fresh_connection_that_dies_unanswered_is_not_tried_again(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.scripts = [Script(raw=b"")]
    with pytest.raises(BackendError):
        await collect(backend)
    assert len(engine.requests) == 1


async def test_an_answer_that_has_begun_is_never_asked_for_again(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    await collect(backend)
    engine.scripts = [Script(die_after=0)]
    with pytest.raises(BackendError):
        await collect(backend)
    assert len(engine.requests) == 2


async def test_a_server_that_closes_each_connection_unsaid(
    engine: ScriptedEngine, backend: HttpBackend, collect: Collect
) -> None:
    engine.script = Script(keep_alive=False)
    for _ in range(5):
        assert await collect(backend) == HELLO + END


@pytest.mark.integration
async def test_a_unix_socket_gets_a_fresh_connection_for_each_request(
    tmp_path: Path, start_backend: Start, collect: Collect
) -> None:
    async with ScriptedEngine(socket=tmp_path / "e.sock") as engine:
        backend = await start_backend(engine.url)
        for _ in range(3):
            assert await collect(backend) == HELLO + END
        assert [recorded.connection for recorded in engine.requests] == [1, 2, 3]
        await engine.wait_for(lambda e: e.connections == 0)


@pytest.mark.integration
async def test_a_socket_given_at_start_replaces_the_urls_host(
    tmp_path: Path, collect: Collect
) -> None:
    async with ScriptedEngine(socket=tmp_path / "e.sock") as engine:
        backend = HttpBackend(
            "b",
            BackendSettings(url="http://engine/v1"),
            model="m",
            first_token_timeout=10,
            stall_timeout=10,
            socket=lambda: tmp_path / "e.sock",
        )
        await backend.start(lambda: None)
        assert await collect(backend) == HELLO + END
        await backend.stop()
        assert engine.requests[0].headers["host"] == "engine"


async def test_a_socket_that_is_not_there(
    tmp_path: Path, start_backend: Start, collect: Collect
) -> None:
    backend = await start_backend(ScriptedEngine(socket=tmp_path / "none.sock").url)
    with pytest.raises(BackendError, match="can't be reached") as caught:
        await collect(backend)
    assert str(tmp_path) not in caught.value.message + caught.value.reason


@pytest.mark.parametrize("url", ["http+unix:///run/e.sock/v1", "http://:80/v1", "http://a:b/v1"])
async def test_a_url_that_cannot_be_used_is_named_at_the_start(
    start_backend: Start, url: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(url)):
        await start_backend(url)


async def test_many_at_once(engine: ScriptedEngine, backend: HttpBackend, collect: Collect) -> None:
    answers = await asyncio.gather(*(collect(backend) for _ in range(200)))
    assert all(answer == HELLO + END for answer in answers)


async def test_proxies_and_cookies_of_the_environment_are_not_used(
    engine: ScriptedEngine,
    start_backend: Start,
    collect: Collect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    engine.script = Script(headers={"Set-Cookie": "a=b; Path=/"})
    backend = await start_backend(engine.url)
    await collect(backend)
    await collect(backend)
    assert "cookie" not in engine.requests[1].headers


# Keys ---------------------------------------------------------------------------------------


async def test_the_key_is_sent(
    engine: ScriptedEngine,
    start_backend: Start,
    collect: Collect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-1\n")
    backend = await start_backend(engine.url, api_key_env="ENGINE_KEY")
    await collect(backend)
    assert engine.requests[0].headers["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize("value", [None, "", " ", "a\nb", "k\u00e9y"])
async def test_a_missing_or_broken_key_is_named_by_its_variable(
    start_backend: Start, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("ENGINE_KEY", value)
    with pytest.raises(ModelError, match="ENGINE_KEY") as caught:
        await start_backend("http://127.0.0.1:1/v1", api_key_env="ENGINE_KEY")
    assert not value or not value.strip() or value not in str(caught.value)
