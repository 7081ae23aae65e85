"""Whose prompt is read: no long one holds up the others, and none waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from reverie.backends import prompt_turns
from reverie.backends.base import Take
from reverie.backends.prompt_turns import PromptTurns
from reverie.events import Delta, Event

SHORT, LONG, LONGER = 10, 1000, 4000


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_turns, "QUANTUM", 0.05)
    monkeypatch.setattr(prompt_turns, "WINDOW", 0.1)


class Engine:
    """Reads prompts for as long as it is told to, and keeps what it has read of them."""

    def __init__(self) -> None:
        self.turns = PromptTurns()
        self.log: list[str] = []

    async def ask(self, name: str, tokens: int, seconds: float) -> None:
        left = seconds
        loop = asyncio.get_running_loop()

        async def generate(take: Take) -> None:
            nonlocal left
            began = loop.time()
            self.log.append(f"{name} begins")
            try:
                await asyncio.sleep(max(0, left))
            except asyncio.CancelledError:
                left -= loop.time() - began
                self.log.append(f"{name} gives way")
                raise
            self.log.append(f"{name} is read")
            take([Delta(text="a")])
            take([Delta(text="b")])

        taken: list[Event] = []
        await self.turns.enter(tokens).generate(generate, taken.extend)
        assert taken == [Delta(text="a"), Delta(text="b")]


async def test_a_long_prompt_gives_way_to_a_short_one_and_is_read_afterwards() -> None:
    engine = Engine()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.ask("long", LONG, 0.3))
        await asyncio.sleep(0.1)
        tasks.create_task(engine.ask("short", SHORT, 0.01))
    assert engine.log == [
        *("long begins", "long gives way", "short begins", "short is read"),
        *("long begins", "long is read"),
    ]


async def test_a_long_prompt_is_read_for_a_while_before_it_gives_way() -> None:
    engine = Engine()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.ask("long", LONG, 0.03))
        tasks.create_task(engine.ask("short", SHORT, 0.0))
    assert engine.log == ["long begins", "long is read", "short begins", "short is read"]


async def test_of_long_prompts_the_shortest_is_read_next_and_none_beside_another() -> None:
    engine = Engine()
    async with asyncio.TaskGroup() as tasks:
        for name, tokens in (("first", LONGER), ("longer", LONGER), ("long", LONG)):
            tasks.create_task(engine.ask(name, tokens, 0.02))
    assert engine.log == [
        *("first begins", "first is read", "long begins", "long is read"),
        *("longer begins", "longer is read"),
    ]


async def test_a_long_prompt_that_was_overtaken_for_long_is_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompt_turns, "MAX_OVERTAKEN", 0.0)
    engine = Engine()
    async with asyncio.TaskGroup() as tasks:
        for name, tokens in (("first", LONGER), ("longer", LONGER), ("long", LONG)):
            tasks.create_task(engine.ask(name, tokens, 0.02))
    assert engine.log[2:4] == ["longer begins", "longer is read"]


async def test_a_long_prompt_is_read_though_short_ones_never_end() -> None:
    engine = Engine()

    async def short_ones() -> None:
        while True:
            await engine.ask("short", SHORT, 0.02)

    flood = [asyncio.create_task(short_ones()) for _ in range(3)]
    async with asyncio.timeout(5):
        await engine.ask("long", LONG, 0.4)
    for one in flood:
        one.cancel()
        with suppress(asyncio.CancelledError):
            await one
    assert engine.log.count("long gives way") >= 1
    assert engine.log.count("short is read") >= 3


async def test_short_ones_that_come_while_a_long_one_gives_way_are_read() -> None:
    engine = Engine()
    left: list[str] = []

    async def leaves_slowly(_: Take) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            left.append("begun")
            await asyncio.sleep(0.05)

    long = asyncio.create_task(engine.turns.enter(LONG).generate(leaves_slowly, lambda _: None))
    await asyncio.sleep(0.06)
    first = asyncio.create_task(engine.ask("first", SHORT, 0.0))
    while not left:
        await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await engine.ask("second", SHORT, 0.0)
        await first
    long.cancel()
    await asyncio.wait({long})


@pytest.mark.parametrize("begun", [True, False])
async def test_one_whose_client_leaves_holds_up_nobody(begun: bool) -> None:
    engine = Engine()
    reading = asyncio.create_task(engine.ask("first", LONG, 60))
    await asyncio.sleep(0)
    leaves = reading if begun else asyncio.create_task(engine.ask("second", LONG, 60))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait({leaves})
    reading.cancel()
    async with asyncio.timeout(1):
        await engine.ask("third", LONG, 0)
    assert engine.log[-1] == "third is read"


async def test_an_error_of_the_engine_reaches_the_request_and_ends_its_turn() -> None:
    turns = PromptTurns()

    async def fails(_: Take) -> None:
        raise ValueError("no")

    for tokens in (SHORT, LONG, SHORT):
        with pytest.raises(ValueError, match="no"):
            await turns.enter(tokens).generate(fails, lambda _: None)


@pytest.mark.parametrize("tokens", [SHORT, LONG])
async def test_it_is_told_once_that_a_prompt_has_been_read_while_the_answer_goes_on(
    tokens: int,
) -> None:
    log: list[str] = []

    async def generate(take: Take) -> None:
        log.append("begins")
        take([Delta(text="a")])
        take([Delta(text="b")])
        log.append("ends")

    turn = PromptTurns().enter(tokens)
    await turn.generate(generate, lambda _: log.append("batch"), lambda: log.append("read"))
    assert log == ["begins", "read", "batch", "batch", "ends"]
