"""Connections drop and servers die: the answer goes on by itself, and the terminal says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.breaking import Link, ServerPlace
from tests.harness import Gateway

pytestmark = pytest.mark.integration

WORDS = tuple(f"word{number} " for number in range(40))
WHOLE = "".join(WORDS)


class Running:
    """``reverie run`` in a pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""

    async def until(self, text: str, *, err: bool = False) -> None:
        stream = self.process.stderr if err else self.process.stdout
        assert stream is not None
        async with asyncio.timeout(60):
            while text not in (self.err if err else self.out):
                data = (await stream.read(4096)).decode()
                assert data, (self.out, self.err)
                self._take(data, err=err)

    async def end(self) -> int:
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        self._take(out.decode(), err=False)
        self._take(err.decode(), err=True)
        assert self.process.returncode is not None
        return self.process.returncode

    def _take(self, data: str, *, err: bool) -> None:
        if err:
            self.err += data
        else:
            self.out += data


@asynccontextmanager
async def run(url: str, *arguments: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverie", "run", "Hi", "--url", url, *arguments),
        env={name: value for name, value in os.environ.items() if name != "REVERIE_API_KEY"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_cut_connection_is_taken_up_and_nothing_is_generated_twice(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    async with Link(gateway.url) as link, run(link.url) as shown:
        await shown.until("word9")
        link.cut()
        await shown.until("lost; trying to go on", err=True)
        engine.resume()
        assert await shown.end() == 0
    assert shown.out == WHOLE.strip() + " \n"
    assert shown.err.endswith("note: the answer goes on\n")
    assert engine.generations == 1


async def test_a_whole_answer_survives_a_cut_connection_too(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    async with Link(gateway.url) as link, run(link.url, "--json") as shown:
        await engine.wait_for(lambda one: one.requests and one.requests[0].sent >= 10)
        link.cut()
        await shown.until("trying to go on", err=True)
        engine.resume()
        assert await shown.end() == 0
    assert json.loads(shown.out)["choices"][0]["message"]["content"] == WHOLE
    assert engine.generations == 1


async def test_the_model_goes_on_from_the_text_that_is_here_after_a_restart(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    place = ServerPlace(tmp_path, engine)
    async with place.server() as first, run(place.url, "--max-tokens", "100") as shown:
        await shown.until("word9")
        first.kill()
        await shown.until("trying to go on", err=True)
        engine.script = Script(tokens=WORDS)
        async with place.server():
            assert await shown.end() == 0
    assert shown.out == WHOLE + "\n"
    assert "its model goes on from what is here" in shown.err
    last = engine.requests[-1].body
    assert last["messages"][-1] == {"role": "assistant", "content": "".join(WORDS[:10])}
    assert last["max_tokens"] == 90


async def test_a_pipe_gets_no_second_beginning_from_a_model_that_can_not_go_on(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    place = ServerPlace(tmp_path, engine, kind="openai")
    async with place.server() as first, run(place.url) as shown:
        await shown.until("word9")
        first.kill()
        await shown.until("trying to go on", err=True)
        engine.script = Script(tokens=WORDS)
        async with place.server():
            assert await shown.end() == 1
    assert shown.out == "".join(WORDS[:10]) + "\n"
    assert shown.err.endswith("can't go on from what is here: ask again.\n")


async def test_an_answer_that_had_not_begun_is_asked_for_again(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, first_delay=3600)
    place = ServerPlace(tmp_path, engine, kind="openai")
    async with place.server() as first, run(place.url) as shown:
        await engine.wait_for(lambda one: one.requests, 30)
        first.kill()
        await shown.until("trying to go on", err=True)
        engine.script = Script(tokens=WORDS)
        async with place.server():
            assert await shown.end() == 0
    assert shown.out == WHOLE + "\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_answer_that_is_stopped_ends_on_the_server_at_once(
    gateway: Gateway, engine: ScriptedEngine, number: signal.Signals
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    async with run(gateway.url) as shown:
        await shown.until("word9")
        shown.process.send_signal(number)
        await engine.wait_for(lambda one: one.requests[0].outcome == "cancelled")
        assert await shown.end() == 128 + number
    assert "Traceback" not in shown.err
