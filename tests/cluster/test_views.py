"""Gateways learn of changes at once, of many together, and of mere numbers now and then."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from reverie.cluster.messages import Engine, EngineInfo, ModelStatus, View
from reverie.cluster.views import Views
from tests.cluster.virtual import given_up, virtual

EMPTY = View("i", 0, False, [], [])


def engines(number: int) -> list[Engine]:
    return [Engine(f"m/{n}", "m", "d", "a", EngineInfo(str(n), 1, "ready")) for n in range(number)]


def made() -> Views:
    return Views(asyncio.get_running_loop().time, "i")


@virtual
async def test_a_view_comes_at_once_unless_it_is_the_one_that_is_there_already() -> None:
    views = made()
    assert views.offer(replace(EMPTY, complete=True)) is None
    assert (await views.get("another", 1, 1e9)).version == 1
    assert (await views.get("", 0, 1e9)).complete
    assert (await views.get("i", 0, 1e9)).version == 1
    assert await given_up(views.get("i", 1, 1e9), 1000)
    assert (await views.get("i", 1, 20)).version == 1  # time is up


@virtual
async def test_all_who_wait_get_the_same_view() -> None:
    views = made()
    waiting = [asyncio.create_task(views.get("i", 0, 60)) for _ in range(1000)]
    await asyncio.sleep(1)
    views.offer(replace(EMPTY, complete=True))
    got = await asyncio.gather(*waiting)
    assert all(one is views.latest for one in got)


@virtual
async def test_changes_within_a_twentieth_of_a_second_are_told_together() -> None:
    views = made()
    assert views.offer(replace(EMPTY, complete=True)) is None
    await asyncio.sleep(0.01)
    again = views.offer(replace(EMPTY, complete=True, engines=engines(1)))
    assert again is not None
    assert views.latest.engines == []
    await asyncio.sleep(again + 0.001)
    assert views.offer(replace(EMPTY, complete=True, engines=engines(2))) is None
    assert (views.latest.version, len(views.latest.engines)) == (2, 2)


@virtual
async def test_an_equal_view_is_no_news() -> None:
    views = made()
    for _ in range(5):
        assert views.offer(replace(EMPTY, engines=engines(1))) is None
        await asyncio.sleep(1)
    assert views.latest.version == 1


@virtual
async def test_the_numbers_of_requests_alone_are_told_every_other_second() -> None:
    views = made()
    for second in range(20):
        status = ModelStatus("m", "d", 1, 1, 1, in_flight=second)
        views.offer(replace(EMPTY, models=[status]))
        await asyncio.sleep(0.5)
    assert 5 <= views.latest.version <= 6


@virtual
async def test_the_more_engines_and_gateways_there_are_the_rarer_is_a_view() -> None:
    views = made()
    view = replace(EMPTY, gateways=1000, engines=engines(1000))
    views.offer(view)
    again = views.offer(replace(view, complete=True))
    assert again is not None
    assert 0.2 < again < 1
