"""Each engine is attended to on its own, and its end is told once, whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reverie import background
from reverie.cluster.lives import Lives
from reverie.cluster.messages import EngineInfo
from reverie.cluster.roster import EngineRecord
from tests.cluster.launcher import FakeLauncher, machine, spec
from tests.cluster.virtual import until, virtual


class Attended:
    """Engines on one machine, and what is told of them."""

    def __init__(self) -> None:
        self.launcher = FakeLauncher(machine("a"))
        self.told: list[str] = []
        self.ends: list[str] = []
        self.lives = Lives(
            self.launcher,
            lambda engine, info: self.told.append(info.state),
            lambda engine, end: self.ends.append(f"{end.reason} {end.launched}"),
        )

    def start(self, name: str = "m/0") -> EngineRecord:
        info = EngineInfo(name, 0, "loading")
        engine = EngineRecord(name, name, spec(), "a", 0.0, info, 0.0, "digest")
        self.lives.start(engine, machine("a"))
        return engine


@asynccontextmanager
async def attended() -> AsyncIterator[Attended]:
    made = Attended()
    try:
        yield made
    finally:
        await made.lives.close()


@virtual
async def test_an_engine_is_told_of_from_its_start_to_its_death() -> None:
    async with attended() as made:
        made.start()
        await until(lambda: made.told == ["loading", "ready"])
        await asyncio.sleep(100)
        made.launcher.named("m/0").tell("restarting")
        made.launcher.named("m/0").die("the machine is gone")
        await until(lambda: made.ends)
        await asyncio.sleep(100)
        assert made.ends == ["the machine is gone True"]
        assert made.told[:2] == ["loading", "ready"]


@virtual
async def test_a_start_that_fails_or_hangs_is_an_end() -> None:
    async with attended() as made:
        made.launcher.refuses["a"] = "no disk"
        made.start()
        await until(lambda: made.ends == ["no disk False"], seconds=1)
        made.launcher.hangs.add("a")
        made.start()
        await until(lambda: len(made.ends) == 2, seconds=61)
        assert made.ends[1] == "It hasn't started within 60 seconds. False"


@virtual
async def test_an_engine_that_is_stopped_ends_once() -> None:
    async with attended() as made:
        engine = made.start()
        await until(lambda: engine.handle)
        process = made.launcher.named("m/0")
        made.lives.stop(engine)
        made.lives.stop(engine)
        await asyncio.sleep(10)
        assert (len(made.ends), process.stops_asked) == (1, 1)


@virtual
async def test_an_engine_that_does_not_stop_is_given_up_after_a_minute() -> None:
    async with attended() as made:
        made.launcher.never_stops.add("a")
        engine, other = made.start(), made.start("m/1")
        await until(lambda: engine.handle and other.handle)
        made.lives.stop(engine)
        made.launcher.named("m/1").die()
        await until(lambda: len(made.ends) == 1, seconds=1)
        await asyncio.sleep(50)
        assert len(made.ends) == 1
        await until(lambda: len(made.ends) == 2, seconds=15)
        told = len(made.told)
        made.launcher.named("m/0").tell("restarting")
        await asyncio.sleep(40)
        assert len(made.told) == told


@virtual
async def test_a_watch_that_hangs_or_breaks_is_asked_anew_and_is_no_death() -> None:
    async with attended() as made:
        engine = made.start()
        await until(lambda: made.told[-1:] == ["ready"])
        process, asked = made.launcher.named("m/0"), 0
        good = process.watch

        async def bad(seen: int) -> EngineInfo:
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.sleep(10**9)
            if asked == 2:
                raise TimeoutError
            if asked == 3:
                raise ValueError("a bug")
            return process.info  # at once, though it is no news

        process.watch = bad  # type: ignore[method-assign]
        await asyncio.sleep(200)
        assert 3 < asked < 2000
        assert made.ends == []
        process.watch = good  # type: ignore[method-assign]
        process.tell("restarting")
        await until(lambda: made.told[-1] == "restarting", seconds=35)
        assert engine.handle is process


@virtual
async def test_an_engine_that_does_not_answer_for_minutes_is_ended() -> None:
    async with attended() as made:
        engine = made.start()
        await until(lambda: engine.ready or made.told[-1:] == ["ready"])
        process = made.launcher.named("m/0")

        async def silent(seen: int) -> EngineInfo:
            await asyncio.sleep(10**9)
            raise AssertionError

        process.watch = silent  # type: ignore[method-assign]
        process.tell("ready")
        await asyncio.sleep(150)
        assert made.ends == []
        await asyncio.sleep(100)
        assert made.ends == ["Its process doesn't answer. True"]
        assert process.stops_asked == 1


@virtual
async def test_engines_run_on_once_nobody_attends_to_them() -> None:
    async with attended() as made:
        made.start()
        await until(lambda: made.told)
        await made.lives.close()
        assert made.launcher.names() == ["m/0"]
        made.launcher.named("m/0").die()
        await asyncio.sleep(10)
        assert made.ends == []
        assert background.failing() == []
