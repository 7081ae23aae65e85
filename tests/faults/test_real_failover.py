"""Real engines that are killed or stopped in the middle of answers: none of them shows it.

Each engine has one slot: llama.cpp's numbers, and so its greedy answers, depend on what else runs
in the same batch, whether or not anybody is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from reverie.backends.health import HealthMonitor
from reverie.models.store import fetch
from reverie.runner import supervisor
from reverie.runner.supervisor import Runner
from reverie.settings import DEFAULT_MODEL, ModelSettings
from tests.harness import Gateway, StartGateway

QUESTIONS = [
    "What is the capital of France?",
    "Write a short list of three fruits.",
    "Write a Python function that adds two numbers.",
    "Repeat exactly: 😀😃🎉🇫🇷 日本語",
    "Say hello in French.",
    "What is two plus two?",
    "Tell me a story.",
    "Count from one to ten.",
]
MAX_TOKENS = 12
AT_ONCE = 3

# It takes 60 s of two cores.
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


class Answer(NamedTuple):
    text: str
    finish_reason: str
    usage: dict[str, Any]


def body(question: str) -> dict[str, Any]:
    system = {"role": "system", "content": "You are a helpful assistant."}
    return {
        "messages": [system, {"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }


async def stream(
    gateway: Gateway,
    question: str,
    on_token: Callable[[], None] = lambda: None,
    max_tokens: int = MAX_TOKENS,
) -> Answer:
    """One whole answer; anything else fails the test."""
    text = ""
    last: dict[str, Any] = {}
    asked = {**body(question), "max_tokens": max_tokens}
    async with gateway.http.post(gateway.url + "/llm", json=asked) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                if line == b"data: [DONE]\n":
                    usage = {name: last["usage"][name] for name in COUNTS}
                    return Answer(text, last["choices"][0]["finish_reason"], usage)
                continue
            last = json.loads(line[6:])
            assert "error" not in last, last
            text += last["choices"][0]["delta"]["content"]
            on_token()
    raise AssertionError("a stream without an end")


COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class Killer:
    """Kills an engine whenever a random number of tokens has gone by since all were well.

    Args:
        well: whether all engines take requests.
    """

    def __init__(self, runners: list[Runner], well: Callable[[], bool], most: int) -> None:
        self._runners = runners
        self._well = well
        self._most = most
        self._random = random.Random(7)
        self._wait = 10
        self._dead: set[int | None] = {None}
        self.kills = 0

    def on_token(self) -> None:
        if any(runner.pid in self._dead for runner in self._runners) or not self._well():
            return
        self._wait -= 1
        if self._wait <= 0:
            self._wait = self._random.randint(1, self._most)
            pid = self._runners[self.kills % len(self._runners)].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            self._dead.add(pid)
            self.kills += 1


async def rush(
    gateway: Gateway, streams: int, killer: Killer, undisturbed: dict[str, Answer]
) -> list[tuple[str, Answer]]:
    """Ask so many times, several at once; give the answers that aren't as they should be."""
    questions = (QUESTIONS * (streams // len(QUESTIONS) + 1))[:streams]
    wrong = []

    async def ask_all() -> None:
        while questions:
            question = questions.pop()
            answer = await stream(gateway, question, killer.on_token)
            if answer != undisturbed[question]:
                wrong.append((question, answer))

    await asyncio.gather(*(ask_all() for _ in range(AT_ONCE)))
    return wrong


@pytest.fixture(autouse=True)
def _engines_are_trusted_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the pauses after each death would leave no time to die again."""
    monkeypatch.setattr(supervisor, "_HEALTHY_AFTER", 0.0)
    intervals = HealthMonitor.__init__.__kwdefaults__
    monkeypatch.setitem(intervals, "healthy_interval", 0.4)
    monkeypatch.setitem(intervals, "unhealthy_interval", 0.2)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def moved(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message.startswith("continuing on") for record in caplog.records)


@pytest.fixture
async def engines() -> AsyncIterator[list[Runner]]:
    """Two of them, with a slot each."""
    model: Path = await asyncio.to_thread(fetch, DEFAULT_MODEL)
    settings = ModelSettings(
        name="m", source="file", slots=1, kv_tokens=1024, cache_mib=0, threads=1
    )
    async with AsyncExitStack() as stack:
        runners = [Runner("m", model, settings) for _ in range(2)]
        for runner in runners:
            stack.push_async_callback(runner.stop)
            await runner.start()
        await until(lambda: all(runner.state == "ready" for runner in runners))
        yield runners


def urls(runners: list[Runner]) -> list[dict[str, Any]]:
    return [
        {
            "url": f"http+unix://{quote(str(runner.socket), safe='')}/v1",
            "slots": 1,
        }
        for runner in runners
    ]


async def test_two_hundred_streams_over_two_engines_that_are_killed_in_turn(
    start_gateway: StartGateway, engines: list[Runner], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(models=[{"name": "m", "backends": urls(engines)}])

    def well() -> bool:
        states = gateway.pool().states
        return all(engine.state == "ready" for engine in engines) and all(
            state.circuit == "closed" for state in states
        )

    undisturbed = {question: await stream(gateway, question) for question in QUESTIONS}
    killer = Killer(engines, well, most=8)
    wrong = await rush(gateway, 200, killer, undisturbed)
    assert wrong == []
    assert moved(caplog) > 25


async def test_a_stream_continues_elsewhere_when_its_engine_is_stopped(
    start_gateway: StartGateway, engines: list[Runner], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(
        models=[{"name": "m", "backends": urls(engines)}], server={"stall_timeout": 1.0}
    )
    question = QUESTIONS[0]
    undisturbed = await stream(gateway, question)
    stopped: list[int] = []

    def stop_it() -> None:
        if not stopped:
            (state,) = [state for state in gateway.pool().states if state.in_flight]
            pid = engines[gateway.pool().states.index(state)].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)

    try:
        answer = await stream(gateway, question, stop_it)
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    assert answer == undisturbed
    assert moved(caplog) == 1


async def test_streams_of_one_embedded_engine_that_is_stopped_and_replaced(
    start_gateway: StartGateway,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(
        models=[{"name": "m", "source": DEFAULT_MODEL, "slots": 1, "cache_mib": 0}],
        server={"stall_timeout": 1.0},
    )
    await gateway.until(lambda: gateway.pool().ready)
    question = QUESTIONS[0]
    undisturbed = await stream(gateway, question)
    monkeypatch.setattr("reverie.runner.probe._TIMEOUT", 0.5)
    runner = gateway.pool().backends[0].runner
    first = runner.pid

    def stop_it() -> None:
        if runner.pid == first:
            os.kill(first, signal.SIGSTOP)

    # The second waits for the slot meanwhile.
    answers = await asyncio.gather(stream(gateway, question, stop_it), stream(gateway, question))
    assert answers == [undisturbed, undisturbed]
    assert moved(caplog) == 1
    (died,) = [record for record in caplog.records if record.message == "engine died"]
    assert "hung" in died.fields["reason"]  # type: ignore[attr-defined]


async def test_a_long_greedy_answer_is_continued_to_the_letter(
    start_gateway: StartGateway,
) -> None:
    """With the settings that everybody has."""
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(models=[{"name": "m", "source": DEFAULT_MODEL}])
    await gateway.until(lambda: gateway.pool().ready)
    question = "Tell me a story about a fox."
    undisturbed = await stream(gateway, question, max_tokens=120)
    runner = gateway.pool().backends[0].runner
    for cut in (12, 30, 47, 80):
        pieces = itertools.count(1)

        def kill(pieces: Iterator[int] = pieces, cut: int = cut) -> None:
            if next(pieces) == cut:
                assert runner.pid is not None
                os.kill(runner.pid, signal.SIGKILL)

        assert await stream(gateway, question, kill, max_tokens=120) == undisturbed, cut


async def test_streams_of_one_embedded_engine_that_is_killed_and_restarts(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start_gateway(
        models=[{"name": "m", "source": DEFAULT_MODEL, "slots": 1, "cache_mib": 0}]
    )
    await gateway.until(lambda: gateway.pool().ready)
    undisturbed = {question: await stream(gateway, question) for question in QUESTIONS}
    runner = gateway.pool().backends[0].runner
    killer = Killer([runner], lambda: runner.state == "ready", most=60)
    wrong = await rush(gateway, 24, killer, undisturbed)
    assert wrong == []
    assert moved(caplog) > 2
