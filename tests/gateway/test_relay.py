"""Generations over real sockets: what a request gets when its backends fail under it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from reverie.backends.base import Health
from reverie.backends.http import HttpBackend
from reverie.errors import BackendError, BackendTimeout, Overloaded, ReverieError
from reverie.events import Delta, Event, Finish, Usage
from reverie.gateway.attempts import MAX_ATTEMPTS, MAX_FAILURES
from reverie.gateway.record import RequestRecord
from reverie.gateway.relay import relay
from reverie.gateway.scheduling.pool import Pool
from reverie.request import GenerateRequest
from reverie.settings import BackendSettings
from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.gateway.scheduling.fake_backend import slot_request


@pytest.fixture(autouse=True)
def _backends_are_soon_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FAILURE_COOLDOWN", 0.1)


TOKENS = ("Hé", "llo\n", "\n", " wörld", ".")
WHOLE = Script(tokens=TOKENS, cached_tokens=3)


def ask(**fields: Any) -> GenerateRequest:
    given = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.0, **fields}
    return GenerateRequest(model="m", **given)


class Returning(HttpBackend):
    """A backend that somebody restarts."""

    recovers = True


@asynccontextmanager
async def pool_of(
    *engines: ScriptedEngine | BackendSettings,
    kind: type[HttpBackend] = HttpBackend,
    stall_timeout: float = 10.0,
    **settings: Any,
) -> AsyncGenerator[Pool]:
    async with AsyncExitStack() as stack:
        backends = [
            kind(
                str(index),
                engine
                if isinstance(engine, BackendSettings)
                else BackendSettings(url=engine.url, **{"continues": True, **settings}),
                model="up",
                first_token_timeout=10.0,
                stall_timeout=stall_timeout,
            )
            for index, engine in enumerate(engines)
        ]
        pool = Pool("m", backends, queue_size=10, queue_timeout=10)
        for backend in backends:
            stack.push_async_callback(backend.stop)
            await backend.start(pool.wake)
        yield pool


class Got:
    """What came of one request."""

    def __init__(self) -> None:
        self.record = RequestRecord("req", "/llm")
        self.events: list[Event] = []

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def finish(self) -> str:
        (finish,) = [event for event in self.events if isinstance(event, Finish)]
        return finish.reason

    @property
    def usage(self) -> tuple[int, int, int]:
        """Prompt, completion and cached tokens, which the record agrees on."""
        (usage,) = [event for event in self.events if isinstance(event, Usage)]
        record = self.record
        told = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        assert told == (record.prompt_tokens, record.completion_tokens, record.cached_tokens)
        assert not usage.estimated
        return told


async def get(pool: Pool, got: Got | None = None, **fields: Any) -> Got:
    got = got or Got()

    def send(batch: list[Event]) -> None:
        assert batch
        got.events += batch

    await relay(pool, ask(**fields), got.record, send=send)
    assert pool.in_flight == 0
    return got


def dying(*engines: ScriptedEngine, **faults: Any) -> None:
    """Let the next answer be broken off, whichever engine gives it."""
    scripts = [Script(tokens=TOKENS, cached_tokens=3, **faults)]
    for engine in engines:
        engine.scripts = scripts


@pytest.fixture
async def engines() -> AsyncGenerator[tuple[ScriptedEngine, ScriptedEngine]]:
    async with ScriptedEngine(WHOLE) as first, ScriptedEngine(WHOLE) as second:
        yield first, second


Engines = tuple[ScriptedEngine, ScriptedEngine]


@pytest.mark.parametrize("how", ["reset", "close", "end"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_death_between_any_two_tokens_is_not_to_be_seen(
    engines: Engines, how: str, temperature: float
) -> None:
    for after in range(len(TOKENS) + 1):
        async with pool_of(*engines) as pool:
            dying(*engines, die_after=after, die_how=how)
            got = await get(pool, temperature=temperature)
        assert (got.text, got.finish) == ("".join(TOKENS), "stop"), after
        assert got.usage == (10, 5, 3)
        assert got.record.pieces == 5
        assert got.record.outcome == "ok"
    assert sum(engine.died for engine in engines) == len(TOKENS) + 1


@pytest.mark.slow
@pytest.mark.parametrize(("how", "step"), [("close", 1), ("end", 7)])
async def test_a_death_at_any_byte_is_not_to_be_seen(engines: Engines, how: str, step: int) -> None:
    options = {"include_usage": True}
    body = {"model": "up", "messages": [{}], "stream": True, "stream_options": options}
    async with (
        aiohttp.ClientSession() as http,
        http.post(engines[0].url + "/chat/completions", json=body) as response,
    ):
        stream = await response.read()
    for byte in range(0, len(stream), step):
        async with pool_of(*engines) as pool:
            dying(*engines, die_at_byte=byte, die_how=how)
            got = await get(pool)
        assert (got.text, got.finish) == ("".join(TOKENS), "stop"), byte
        usage = got.events[-1]
        if isinstance(usage, Usage) and usage.estimated:  # the answer was whole, but for this
            assert b'"finish_reason":"stop"' in stream[:byte]
            assert b'"usage"' not in stream[:byte] or b"}}\n\n" not in stream[:byte]
            assert usage.completion_tokens == 5
        else:
            assert got.usage == (10, 5, 3), byte


@pytest.mark.parametrize(
    "fault",
    [
        {"stall_after": 2},
        {"error_in_stream": {"message": "CUDA error"}, "error_after": 2},
        {"finish_reason": "abort"},
    ],
)
async def test_any_failure_in_mid_answer_is_made_good(
    engines: Engines, fault: dict[str, Any]
) -> None:
    async with pool_of(*engines, stall_timeout=0.5) as pool:
        dying(*engines, **fault)
        got = await get(pool)
    assert (got.text, got.finish, got.usage) == ("".join(TOKENS), "stop", (10, 5, 3))


async def test_a_stalled_engine_is_stopped_once_another_continues_the_answer(
    engines: Engines,
) -> None:
    async with pool_of(*engines, stall_timeout=0.5) as pool:
        dying(*engines, stall_after=2)
        await get(pool)
    assert sum(engine.cancelled for engine in engines) == 1


async def test_an_answer_that_every_backend_breaks_off_ends_with_what_broke_it_first(
    engines: Engines,
) -> None:
    for engine in engines:
        engine.script = Script(tokens=TOKENS, stall_after=2)
    engines[1].scripts = [Script(status=400)] * 3
    got = Got()
    async with pool_of(*engines, stall_timeout=0.5) as pool:
        with pytest.raises(BackendTimeout):
            await get(pool, got)
        assert pool.in_flight == 0
    assert got.text == "".join(TOKENS[:2])
    assert got.record.cut_for_good


@pytest.mark.integration
async def test_backends_that_die_again_and_again_still_bring_an_answer_to_its_end() -> None:
    script = Script(tokens=("a",) * 10, die_after=1)
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ScriptedEngine(script)) for _ in range(5)]
        async with pool_of(*engines) as pool:
            got = await get(pool, max_tokens=10)
        assert (got.text, got.finish) == ("a" * 10, "length")
        assert sum(engine.generations for engine in engines) == 10


@pytest.mark.integration
async def test_a_backend_that_is_back_takes_over_from_one_that_died_over_the_prompt() -> None:
    async with ScriptedEngine(WHOLE) as one, ScriptedEngine(WHOLE) as two:
        one.scripts = two.scripts = [Script(tokens=TOKENS, die_after=2), Script(raw=b"")]
        async with pool_of(one, two) as pool:
            got = await get(pool)
        assert (got.text, got.usage) == ("".join(TOKENS), (10, 5, 3))
        assert {one.generations, two.generations} == {1, 2}


@pytest.mark.integration
async def test_failures_over_one_answer_are_bounded() -> None:
    script = Script(tokens=("a",) * 100, die_after=1)
    got = Got()
    async with ScriptedEngine(script) as engine:
        async with pool_of(engine, kind=Returning) as pool:
            with pytest.raises(BackendError):
                await get(pool, got, max_tokens=100)
        assert engine.generations == MAX_FAILURES
    assert got.text == "a" * MAX_FAILURES


@pytest.mark.integration
async def test_a_backend_that_recovers_continues_its_own_answer() -> None:
    async with ScriptedEngine(Script(tokens=TOKENS, die_after=2)) as engine:
        engine.scripts = [engine.script, Script(raw=b""), Script(status=503), WHOLE]
        async with pool_of(engine, kind=Returning) as pool:
            got = await get(pool)
        assert (got.text, got.usage) == ("".join(TOKENS), (10, 5, 3))


@pytest.mark.integration
async def test_an_engine_that_is_busy_for_a_while_after_it_came_back_is_waited_for() -> None:
    async with ScriptedEngine(Script(tokens=TOKENS, die_after=2)) as engine:
        engine.scripts = [engine.script, *[Script(status=503)] * 5, WHOLE]
        async with pool_of(engine) as pool:
            got = await get(pool)
        assert (got.text, got.usage) == ("".join(TOKENS), (10, 5, 3))


@pytest.mark.integration
async def test_an_engine_that_comes_back_but_never_gets_further_is_given_up() -> None:
    async with ScriptedEngine(Script(raw=b"")) as engine:
        engine.scripts = [Script(tokens=TOKENS, die_after=2)]
        async with pool_of(engine, kind=Returning) as pool:
            with pytest.raises(BackendError):
                await get(pool)
        assert 2 < engine.generations < 6


async def test_an_engine_that_would_say_something_else_is_not_the_clients_fault(
    engines: Engines,
) -> None:
    engines[0].script = Script(tokens=TOKENS, die_after=2)
    engines[1].script = Script(tokens=("Another", " answer"))
    async with pool_of(*engines) as pool:
        with pytest.raises(BackendError):
            await get(pool)
    assert engines[1].refused == 1


async def test_backends_that_would_begin_anew_are_passed_over(engines: Engines) -> None:
    dying, able = engines
    dying.script = Script(tokens=TOKENS, stall_after=2)
    async with ScriptedEngine(Script(tokens=TOKENS, continues=False)) as plain:
        backends = (
            BackendSettings(url=dying.url, slots=1),
            BackendSettings(url=plain.url, slots=1),
            BackendSettings(url=able.url, slots=1, kind="vllm"),
        )
        async with pool_of(*backends, stall_timeout=0.5) as pool:
            others = [await pool.acquire(slot_request(excluded={"0"})) for _ in range(2)]
            cut = asyncio.create_task(get_anyway(pool))
            await dying.wait_for(lambda engine: engine.stalled)
            for lease in sorted(others, key=lambda lease: lease.backend.name):
                lease.release()
            assert (await cut).text == "".join(TOKENS)
        assert (plain.generations, able.generations) == (0, 1)


async def get_anyway(pool: Pool, **fields: Any) -> Got:
    """As ``get``, while others hold slots."""
    got = Got()

    def send(batch: list[Event]) -> None:
        got.events.extend(batch)

    await relay(pool, ask(**fields), got.record, send=send)
    return got


async def test_an_answer_that_no_backend_can_continue_stays_cut(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_of(*engines, continues=None) as pool:
        dying(*engines, die_after=2)
        with pytest.raises(BackendError):
            await get(pool)
    assert sum(engine.generations for engine in engines) == 1
    (line,) = lines(caplog, "can't continue")
    assert line["why"] == "no backend of the model can continue an answer"


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.message == message]  # type: ignore[attr-defined]


TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}
CALL = Script(tokens=("Well",), tool_calls=(ToolCall(name="f", arguments=("{", "}")),))


@pytest.mark.parametrize(
    ("fields", "script", "die_after"),
    [
        (TOOLS, CALL, 2),
        (TOOLS | {"tool_choice": "required"}, WHOLE, 2),
        ({}, Script(reasoning=("Hm",), tokens=TOKENS), 1),
        ({"response_format": {"type": "json_object"}}, WHOLE, 2),
        ({"logprobs": True}, WHOLE, 2),
        ({"seed": 1, "temperature": 0.5}, WHOLE, 2),
    ],
)
async def test_an_answer_that_cant_be_resumed_ends_with_the_failure_and_its_reason_is_logged(
    engines: Engines,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
    script: Script,
    die_after: int,
) -> None:
    faulty = Script(
        tokens=script.tokens,
        reasoning=script.reasoning,
        tool_calls=script.tool_calls,
        die_after=die_after,
    )
    for engine in engines:
        engine.script = faulty
    async with pool_of(*engines) as pool:
        with pytest.raises(BackendError):
            await get(pool, **fields)
    assert sum(engine.generations for engine in engines) == 1
    (line,) = lines(caplog, "can't continue")
    assert line["why"]


async def test_tools_that_were_not_called_yet_can_still_be(engines: Engines) -> None:
    whole = Script(tokens=CALL.tokens, tool_calls=CALL.tool_calls)
    for engine in engines:
        engine.script = whole
    async with pool_of(*engines) as pool:
        scripts = [Script(tokens=CALL.tokens, tool_calls=CALL.tool_calls, die_after=1)]
        engines[0].scripts = engines[1].scripts = scripts
        got = await get(pool, **TOOLS)
    assert (got.text, got.finish, got.usage[1]) == ("Well", "tool_calls", 4)


async def test_max_tokens_holds_across_the_seam(engines: Engines) -> None:
    async with pool_of(*engines) as pool:
        for limit in range(1, len(TOKENS)):
            for after in range(limit):
                dying(*engines, die_after=after)
                got = await get(pool, max_tokens=limit)
                assert (got.text, got.finish) == ("".join(TOKENS[:limit]), "length")
                assert got.usage == (10, limit, 3)
                await get(pool)  # a whole one, so that no backend is left alone for long


async def test_spaces_that_an_answer_began_with_are_counted_once(engines: Engines) -> None:
    tokens = ("\n", "a", "b", "c", "d")
    async with pool_of(*engines) as pool:
        parts = [Script(tokens=tokens, die_after=1), Script(tokens=tokens, batch=None, die_after=4)]
        engines[0].scripts = engines[1].scripts = parts
        engines[0].script = engines[1].script = Script(tokens=tokens)
        got = await get(pool, max_tokens=5)
    assert (got.text, got.usage[1], got.record.pieces) == ("\nabcd", 5, 5)


async def test_nobody_is_asked_for_the_end_of_an_answer_that_reached_max_tokens(
    engines: Engines,
) -> None:
    async with pool_of(*engines) as pool:
        dying(*engines, die_after=2)
        got = await get_anyway(pool, max_tokens=2)
    assert (got.text, got.finish) == ("".join(TOKENS[:2]), "length")
    assert got.record.completion_tokens == 2
    assert sum(engine.generations for engine in engines) == 1


async def test_a_stop_string_across_the_seam_ends_the_answer_and_the_engines_work(
    engines: Engines,
) -> None:
    script = Script(tokens=("So", " E", "N", "D", " never", " seen"), stall_after=4)
    engines[0].script = engines[1].script = script
    async with pool_of(*engines) as pool:
        scripts = [Script(tokens=script.tokens, die_after=2)]
        engines[0].scripts = engines[1].scripts = scripts
        got = await get_anyway(pool, stop=("END",))
        async with asyncio.timeout(5):
            while not any(engine.cancelled for engine in engines):
                await asyncio.sleep(0.01)
    assert (got.text, got.finish) == ("So E", "stop")


async def test_the_slot_of_a_dead_backend_is_free_while_its_request_waits(
    engines: Engines,
) -> None:
    engines[0].script = Script(tokens=TOKENS, stall_after=2)
    async with pool_of(*engines, slots=1, stall_timeout=0.5) as pool:
        other = await pool.acquire(slot_request(excluded={"0"}))
        cut = asyncio.create_task(get_anyway(pool))
        await until(lambda: pool.waiting == 1)
        first, second = pool.backends
        assert (pool.in_flight_on(first), pool.in_flight_on(second)) == (0, 1)
        other.release()
        assert (await cut).text == "".join(TOKENS)


async def test_a_client_that_leaves_while_its_answer_waits_to_resume_frees_everything(
    engines: Engines,
) -> None:
    engines[0].script = Script(tokens=TOKENS, stall_after=2)
    async with pool_of(*engines, slots=1, stall_timeout=0.5) as pool:
        other = await pool.acquire(slot_request(excluded={"0"}))
        cut = asyncio.create_task(get_anyway(pool))
        await until(lambda: pool.waiting == 1)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        assert (pool.waiting, pool.in_flight) == (0, 1)
        other.release()
        assert pool.in_flight == 0
        assert engines[1].generations == 0


async def test_a_client_that_leaves_after_the_seam_stops_the_second_engine(
    engines: Engines,
) -> None:
    engines[0].script = engines[1].script = Script(tokens=TOKENS, stall_after=1)
    engines[0].scripts = engines[1].scripts = [Script(tokens=TOKENS, die_after=2)]
    async with pool_of(*engines) as pool:
        cut = asyncio.create_task(get_anyway(pool))
        await until(lambda: any(engine.stalled for engine in engines))
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        assert pool.in_flight == 0
        await until(lambda: sum(engine.cancelled for engine in engines) == 1)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_each_failover_has_one_line_that_says_from_where_to_where(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with pool_of(*engines) as pool:
        dying(*engines, die_after=2)
        got = await get(pool)
    (line,) = lines(caplog, "continuing on another backend")
    assert line["id"] == got.record.id
    assert {line["from"], line["to"]} == {"0", "1"}
    assert line["to"] == got.record.backend
    assert (line["after_tokens"], line["error"]) == (2, "backend_error")
    assert got.record.failovers == 1


FATAL: Sequence[Script] = [Script(status=400), Script(raw=b""), Script(status=503)]


async def test_before_the_first_token_another_backend_answers_from_the_beginning(
    engines: Engines,
) -> None:
    async with pool_of(*engines) as pool:
        for script in FATAL[1:]:
            engines[0].scripts = engines[1].scripts = [script]
            got = await get(pool, seed=1, temperature=0.5)
            assert (got.text, got.usage, got.record.failovers) == ("".join(TOKENS), (10, 5, 3), 0)
        engines[0].scripts = engines[1].scripts = [FATAL[0]]
        with pytest.raises(ReverieError) as refused:
            await get(pool)
        assert refused.value.status == 400


async def test_before_the_first_token_a_backend_that_failed_is_asked_again_once_it_is_back(
    engines: Engines,
) -> None:
    engines[0].scripts = engines[1].scripts = [Script(raw=b""), Script(first_delay=60)]
    async with pool_of(*engines) as pool:
        asking = asyncio.create_task(get(pool))
        await until(lambda: any(engine.in_flight for engine in engines))
        (working,) = [engine for engine in engines if engine.in_flight]
        (failed,) = [state for state in pool.states if not state.in_flight]
        failed.backend.health = Health(ok=True, checked_at=0.0)  # type: ignore[attr-defined]
        pool.wake()
        working.kill()
        assert (await asking).text == "".join(TOKENS)


# An engine's memory -------------------------------------------------------------------------

SSE = {"Content-Type": "text/event-stream"}
FULL = {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}


@pytest.mark.integration
async def test_requests_that_overflowed_an_engines_memory_together_run_one_at_a_time() -> None:
    peak = 0

    def overflow(body: Any) -> Sequence[str]:
        nonlocal peak
        peak = max(peak, engine.in_flight)
        return ["a"] * 5

    whole = Script(tokens=overflow, delay=0.02)
    async with ScriptedEngine(whole) as engine:
        engine.scripts = [
            Script(tokens=("a",) * 5, error_in_stream=FULL, error_after=3),
            Script(status=500, error=FULL),
        ]
        async with pool_of(engine, slots=4) as pool:
            several = await asyncio.gather(get(pool, max_tokens=5), get(pool, max_tokens=5))
        assert [got.text for got in several] == ["aaa" + "aa", "a" * 5]
        assert (engine.generations, peak) == (4, 1)


@pytest.mark.integration
async def test_an_engine_whose_memory_overflows_again_and_again_is_given_up_soon() -> None:
    script = Script(tokens=("a",) * 100, error_in_stream=FULL, error_after=3)
    async with ScriptedEngine(script) as engine:
        async with pool_of(engine) as pool:
            with pytest.raises(Overloaded):
                await get(pool, max_tokens=100)
            assert pool.states[0].circuit == "closed"
        assert engine.generations == MAX_ATTEMPTS


@pytest.mark.integration
async def test_a_slot_is_resized_by_the_engines_own_count() -> None:
    tokens: list[int] = []
    chunk = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"prompt_progress":{"total":70}}'
    )
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = chunk + b"\n\n" + end
    async with ScriptedEngine(
        Script(body=body, headers=SSE, cuts=[len(chunk) + 2], gap=0.05)
    ) as engine:
        async with pool_of(engine) as pool:

            def send(_: list[Event]) -> None:
                tokens.append(pool.states[0].tokens)

            record = RequestRecord("req", "/llm")
            await relay(pool, ask(max_tokens=9), record, send=send)
    assert tokens[0] == 70 + 9


# A request's own failure --------------------------------------------------------------------


@pytest.mark.integration
async def test_what_two_backends_answer_alike_says_nothing_of_either() -> None:
    script = Script(status=500, error={"message": "no such grammar"})
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ScriptedEngine(script)) for _ in range(3)]
        async with pool_of(*engines) as pool:
            for _ in range(4):
                with pytest.raises(BackendError):
                    await get(pool)
            assert [state.circuit for state in pool.states] == ["closed"] * 3
            assert sum(state.failures for state in pool.states) == 0
        assert sum(engine.generations for engine in engines) == 4 * 3


@pytest.mark.integration
async def test_what_another_backend_can_do_counts_against_those_that_could_not() -> None:
    script = Script(status=500, error={"message": "no such grammar"})
    async with ScriptedEngine(script) as one, ScriptedEngine(script) as two:
        async with ScriptedEngine(WHOLE) as three, pool_of(one, two, three) as pool:
            for number in range(6):
                got = await get(pool, messages=[{"role": "user", "content": f"{number}"}])
                assert got.text == "".join(TOKENS)
            asked = one.generations, two.generations
            assert [state.failures for state in pool.states] == [*asked, 0]
            assert sum(asked)


@pytest.mark.integration
@pytest.mark.parametrize("other", [{"message": "another"}, {"message": ""}])
async def test_what_they_answer_differently_counts_against_each(other: dict[str, str]) -> None:
    one = Script(status=500, error={"message": "no such grammar"})
    async with (
        ScriptedEngine(one) as first,
        ScriptedEngine(Script(status=500, error=other)) as second,
        pool_of(first, second) as pool,
    ):
        with pytest.raises(BackendError):
            await get(pool)
        assert [state.failures for state in pool.states] == [1, 1]
