"""A gateway's link to a cluster that isn't there. To one that is: test_streams."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reverie import background
from reverie.cluster.child_link import ChildLink
from reverie.settings import ClusterSettings

pytestmark = pytest.mark.integration

TOKEN = "a-token-for-tests"
NOBODY = "127.0.0.1:9"


class Linked:
    def __init__(self, link: ChildLink) -> None:
        self.link = link
        self.changes = 0

    async def start(self) -> None:
        await self.link.start(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
async def linked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Linked]:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.05)
    environ = {**os.environ, "REVERIE_CLUSTER_TOKEN": TOKEN}
    one = Linked(ChildLink(ClusterSettings(address=NOBODY), environ))
    yield one
    await one.link.stop()


def children() -> list[int]:
    """The links' own: other tests of this process may have started others."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if "reverie.cluster.child" in _command(pid)]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


async def test_it_says_why_it_is_not_connected_once_however_often_it_tries(
    linked: Linked, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reverie.cluster")
    await linked.start()
    await linked.until(lambda: linked.changes)
    assert linked.link.why == f"The cluster at {NOBODY} can't be reached: Connection refused."
    assert not linked.link.connected
    first = children()
    await linked.until(lambda: children() and children() != first)
    await linked.until(lambda: not children())
    assert linked.changes == 1
    assert [record.message for record in caplog.records] == ["not connected to the cluster"]
    assert TOKEN not in caplog.text


async def test_to_stop_ends_the_child(linked: Linked) -> None:
    before = children()
    await linked.start()
    await linked.until(lambda: children() != before)
    async with asyncio.timeout(5):
        await linked.link.stop()
    assert children() == before


async def test_without_a_token_it_says_where_to_put_one(
    tmp_path: Path,
) -> None:
    settings = ClusterSettings(address=NOBODY, token_file=tmp_path / "token")
    one = Linked(ChildLink(settings, {}))
    await one.start()
    try:
        await one.until(lambda: one.changes)
        assert "there is no token here" in one.link.why
        assert children() == []
    finally:
        await one.link.stop()


async def test_a_child_that_died_without_a_word_is_replaced(linked: Linked) -> None:
    await linked.start()
    await linked.until(children)
    os.kill(children()[0], 9)
    await linked.until(lambda: "SIGKILL" in linked.link.why)
    await linked.until(lambda: "can't be reached" in linked.link.why)


def test_a_gateway_with_a_cluster_never_imports_ray() -> None:
    code = (
        "import sys, reverie.app, reverie.cluster.child_link\n"
        "from reverie.settings import ClusterSettings\n"
        f"reverie.cluster.child_link.ChildLink(ClusterSettings(address={NOBODY!r}))\n"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
