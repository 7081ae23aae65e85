"""What a gateway's child tells its gateway and the manager. In a cluster: test_streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from reverie.cluster import child
from reverie.cluster.child import Follower, Inbox
from reverie.cluster.connection import ManagerAway
from reverie.cluster.messages import (
    Connected,
    Deploy,
    Disconnected,
    Loads,
    Report,
    Reported,
    Up,
    View,
    Viewed,
)
from reverie.errors import ClusterError


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "AGAIN", 0.01)
    monkeypatch.setattr(child, "GIVE_UP", 0.2)


class SomeManager:
    """A manager in this process, which may be away."""

    reverie = "1.2.3"

    def __init__(self) -> None:
        self.away: ManagerAway | None = None
        self.view_now = View("one", 1, True, [], [])
        self.changed = asyncio.Event()
        self.deployed: list[Deploy] = []
        self.reported: list[Report] = []
        self.loads = Loads({}, {})
        self.report_blocks = asyncio.Event()
        self.report_blocks.set()

    def set(self, view: View | None = None, away: ManagerAway | None = None) -> None:
        self.view_now, self.away = view or self.view_now, away
        self.changed.set()
        self.changed = asyncio.Event()

    def _answers(self) -> None:
        if self.away is not None:
            raise self.away

    async def deploy(self, deploy: Deploy) -> None:
        self._answers()
        self.deployed.append(deploy)

    async def report(self, report: Report) -> Loads:
        self._answers()
        self.reported.append(report)
        await self.report_blocks.wait()
        return self.loads

    async def view(self, gateway: str, incarnation: str, version: int, timeout: float) -> View:
        while (self.view_now.incarnation, self.view_now.version) == (incarnation, version):
            self._answers()
            await self.changed.wait()
        self._answers()
        return self.view_now


class Following:
    def __init__(self) -> None:
        self.told: list[Up] = []
        self.manager = SomeManager()
        self.inbox = Inbox()
        self.task: asyncio.Task[None]

    def begin(self, find: Callable[[], Awaitable[SomeManager]] | None = None) -> None:
        async def this_one() -> SomeManager:
            return self.manager

        follower = Follower(self.told.append, self.inbox, "2.60.0", find or this_one)
        self.task = asyncio.create_task(follower.run())

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    def views(self) -> list[tuple[str, int]]:
        return [
            (told.view.incarnation, told.view.version)
            for told in self.told
            if isinstance(told, Viewed)
        ]


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    one = Following()
    yield one
    one.task.cancel()
    await asyncio.gather(one.task, return_exceptions=True)


def report(in_version: int) -> Reported:
    return Reported(Report("g", {}, {}, "one", in_version))


async def test_a_gateway_hears_that_it_is_connected_and_then_each_view(
    following: Following,
) -> None:
    following.inbox.take(Deploy("g", []))
    following.begin()
    await following.until(lambda: following.views() == [("one", 1)])
    assert following.told[0] == Connected("1.2.3", "2.60.0")
    following.manager.set(View("one", 2, True, [], []))
    await following.until(lambda: following.views() == [("one", 1), ("one", 2)])
    assert following.manager.deployed == [Deploy("g", [])]


async def test_a_manager_that_was_started_again_is_told_what_to_deploy(
    following: Following,
) -> None:
    following.inbox.take(Deploy("g", []))
    following.begin()
    await following.until(lambda: following.views())
    following.manager.set(away=ManagerAway("It is being started again."))
    await following.until(lambda: following.told[-1] == Disconnected("It is being started again."))
    following.manager.set(View("two", 1, False, [], []))
    await following.until(lambda: following.views()[-1] == ("two", 1))
    await following.until(lambda: len(following.manager.deployed) == 2)
    assert sum(isinstance(told, Disconnected) for told in following.told) == 1


async def test_a_manager_that_has_ended_is_looked_for_anew(following: Following) -> None:
    old, new = following.manager, SomeManager()
    new.view_now = View("two", 1, True, [], [])
    found = [old, new]

    async def find() -> SomeManager:
        return found.pop(0)

    following.inbox.take(Deploy("g", []))
    following.begin(find)
    await following.until(lambda: following.views())
    old.set(away=ManagerAway("It ended.", ended=True))
    await following.until(lambda: following.views()[-1] == ("two", 1))
    assert not found


async def test_a_manager_that_stays_away_ends_the_child_with_a_reason(
    following: Following,
) -> None:
    following.inbox.take(Deploy("g", []))
    following.begin()
    await following.until(lambda: following.views())
    following.manager.set(away=ManagerAway("It doesn't answer."))
    with pytest.raises(ClusterError, match=r"It doesn't answer\."):
        await asyncio.wait_for(following.task, 5)


async def test_only_the_newest_report_is_handed_on_to_a_slow_manager(
    following: Following,
) -> None:
    following.manager.report_blocks.clear()
    following.begin()
    following.inbox.take(report(1))
    await following.until(lambda: len(following.manager.reported) == 1)
    for version in (2, 3, 4):
        following.inbox.take(report(version))
    following.manager.report_blocks.set()
    await following.until(lambda: len(following.manager.reported) == 2)
    await asyncio.sleep(0.02)
    assert [one.version for one in following.manager.reported] == [1, 4]


async def test_a_deploy_reaches_a_manager_that_was_away(following: Following) -> None:
    following.begin()
    await following.until(lambda: following.told)
    following.manager.set(away=ManagerAway("It is being started again."))
    following.inbox.take(Deploy("g", []))
    await asyncio.sleep(0.03)
    assert not following.manager.deployed
    following.manager.set()
    await following.until(lambda: following.manager.deployed == [Deploy("g", [])])


async def test_each_report_is_answered_with_what_the_other_gateways_do_while_the_manager_is_there(
    following: Following,
) -> None:
    def heard() -> list[Loads]:
        return [told for told in following.told if isinstance(told, Loads)]

    following.begin()
    following.manager.loads = Loads({"u": 3}, {"m": 1})
    following.inbox.take(report(1))
    await following.until(lambda: heard() == [Loads({"u": 3}, {"m": 1})])
    following.manager.set(away=ManagerAway("It is being started again."))
    following.inbox.take(report(2))
    await asyncio.sleep(0.02)
    assert len(heard()) == 1
    following.manager.set()
    following.manager.away = None
    following.inbox.take(report(3))
    await following.until(lambda: len(heard()) == 2)
