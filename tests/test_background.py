"""Background work goes on after whatever fails, and an operator learns of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from reverie import background
from reverie.background import FAILURES, Loop, Watch, once


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(background, "LONGEST_PAUSE", 0.002)
    yield
    FAILURES.clear()


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("failure", [OSError("disk"), RuntimeError("bug"), TimeoutError()])
async def test_a_loop_that_fails_starts_again_and_the_log_says_so(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    begun = 0

    async def run() -> None:
        nonlocal begun
        begun += 1
        if begun <= 2:
            raise failure
        await asyncio.sleep(1000)

    loop = Loop("probe", run)
    await until(lambda: begun == 3)
    assert FAILURES["probe"] == 2
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert type(failure).__name__ in str(lines[0].__dict__)
    await loop.stop()
    await loop.stop()


async def test_a_loop_that_fails_again_and_again_is_told_of_until_it_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "HEALTHY_AFTER", 0.01)
    broken = True

    async def run() -> None:
        if broken:
            raise OSError
        await asyncio.sleep(1000)

    loop = Loop("probe", run)
    await until(lambda: background.failing() == ["probe"])
    broken = False
    await until(lambda: background.failing() == [])
    await loop.stop()


async def test_a_loop_that_is_stopped_is_told_of_no_more() -> None:
    async def run() -> None:
        raise OSError

    loop = Loop("probe", run)
    await until(lambda: background.failing() == ["probe"])
    await loop.stop()
    assert background.failing() == []


async def test_a_loop_may_end() -> None:
    ended = asyncio.Event()

    async def run() -> None:
        ended.set()

    loop = Loop("probe", run)
    await ended.wait()
    await loop.stop()
    assert FAILURES == {"probe": 0}


async def test_a_step_that_fails_leaves_the_others_alone() -> None:
    one, other = Watch("one"), Watch("other")
    done = 0
    for _ in range(background.FAILURES_TO_TELL):
        with one.step():
            raise OSError
        with other.step():
            done += 1
    assert (done, background.failing()) == (background.FAILURES_TO_TELL, ["one"])
    with one.step():
        pass
    assert background.failing() == []
    with pytest.raises(asyncio.CancelledError), one.step():
        raise asyncio.CancelledError


async def test_what_is_overdue_is_told_of_without_a_failure() -> None:
    late = False
    watch = Watch("beat", overdue=lambda: late)
    assert background.failing() == []
    late = True
    assert background.failing() == ["beat"]
    watch.end()
    assert background.failing() == []


async def test_only_the_first_failure_in_a_row_brings_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = Watch("probe")
    for _ in range(3):
        watch.failed(OSError("disk"))
    with watch.step():
        pass
    watch.failed(OSError("disk"))
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False, True]


async def test_work_that_is_done_once_fails_in_the_log_and_for_who_waits_for_it() -> None:
    async def work() -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        await once("load", work)
    assert FAILURES["load"] == 1
    cancelled = once("load", work)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
