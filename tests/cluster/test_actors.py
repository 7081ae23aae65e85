"""A gateway's link, the manager and engines' actors, in a cluster of Ray on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reverie.cluster.child_link import ChildLink
from reverie.cluster.messages import Demand, Engine, Loads, Report, Wanted
from reverie.settings import ClusterSettings
from tests.cluster.engines import scripted
from tests.cluster.ray_cluster import RayCluster, alive, kill

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


class Gateway:
    """A gateway as the cluster sees it: a link, and reports at short intervals."""

    def __init__(self, cluster: RayCluster, **settings: object) -> None:
        asked = ClusterSettings.model_validate({"address": cluster.address, **settings})
        self.link = ChildLink(asked, cluster.environ)
        self._spec = scripted(cluster.folder, slots=2)
        self.running: dict[str, int] = {}
        self._reporting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.link.start(lambda: None)
        self._reporting = asyncio.create_task(self._report())

    async def stop(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        await self.link.stop()

    async def _report(self) -> None:
        while True:
            view = self.link.view
            seen = (view.incarnation, view.version) if view else ("", 0)
            demand = {"m": Demand(sum(self.running.values()), 0)}
            self.link.report(Report(self.link.gateway, demand, self.running, *seen))
            await asyncio.sleep(0.2)

    def deploy(self, engines: int) -> None:
        """The same engines whatever gateway asks for them."""
        self.link.deploy([Wanted(self._spec, engines, engines, 1.0, time.time_ns() // 10**6)])

    @property
    def ready(self) -> dict[str, Engine]:
        """The engines that are ready, by uid."""
        engines = self.link.view.engines if self.link.view is not None else []
        return {one.info.uid: one for one in engines if one.info.state == "ready"}

    @property
    def child(self) -> int:
        found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for pid in found:
            if b"reverie.cluster.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        raise AssertionError("there is no child")

    async def until(self, condition: Callable[[], object], seconds: float = 40) -> float:
        """Wait for it. Returns how long that took."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"waited in vain: {self.link.why!r} {self.link.view}")
        return time.monotonic() - began


@pytest.fixture
async def gateway(cluster: RayCluster) -> AsyncIterator[Gateway]:
    """One with two engines that are ready."""
    one = Gateway(cluster)
    await one.start()
    one.deploy(2)
    try:
        await one.until(lambda: len(one.ready) == 2)
        yield one
    finally:
        await one.stop()


async def test_engines_that_a_gateway_asks_for_run_on_machines_and_are_seen(
    cluster: RayCluster, gateway: Gateway
) -> None:
    assert gateway.link.connected
    assert {one.name for one in gateway.ready.values()} == {"m/0", "m/1"}
    machines = {machine.address: machine for machine in cluster.machines}
    for engine in gateway.ready.values():
        assert engine.info.url.startswith(f"http://{engine.machine}:")
        assert machines[engine.machine].engines
    view = gateway.link.view
    assert view is not None
    slots = {one.address: one.slots for one in view.machines if one.alive}
    assert slots == {"127.0.0.2": 0, "127.0.0.3": 4, "127.0.0.4": 4}


async def test_a_gateway_is_told_what_another_runs_until_that_is_gone(
    cluster: RayCluster, gateway: Gateway
) -> None:
    other = Gateway(cluster)
    await other.start()
    try:
        uid = min(gateway.ready)
        other.running = {uid: 2}
        await gateway.until(lambda: gateway.link.loads == Loads({uid: 2}, {"m": 1}))
        gateway.running = {uid: 1}
        await other.until(lambda: other.link.loads == Loads({uid: 1}, {"m": 1}))
    finally:
        await other.stop()
    await gateway.until(lambda: gateway.link.loads == Loads({}, {}))


async def test_a_child_that_is_killed_is_replaced_and_the_view_stays(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reverie.cluster")
    before, old = set(gateway.ready), gateway.child
    kill(old)
    await gateway.until(lambda: not gateway.link.connected)
    assert set(gateway.ready) == before
    await gateway.until(lambda: gateway.link.connected)
    assert gateway.child != old
    await asyncio.sleep(1)
    assert set(gateway.ready) == before
    assert [record.message for record in caplog.records] == [
        "not connected to the cluster",
        "connected to the cluster",
    ]


async def test_a_manager_that_is_killed_comes_back_and_keeps_the_engines(
    cluster: RayCluster, gateway: Gateway
) -> None:
    view = gateway.link.view
    assert view is not None
    before = set(gateway.ready)
    (manager,) = cluster.find("ray::ManagerActor")
    kill(manager.pid)
    took = await gateway.until(
        lambda: gateway.link.view.incarnation != view.incarnation and gateway.link.view.complete
    )
    assert set(gateway.ready) == before, took
    await asyncio.sleep(1)
    assert set(gateway.ready) == before
    assert gateway.link.connected


async def test_an_engine_whose_actor_is_killed_is_replaced_under_its_name(
    cluster: RayCluster, gateway: Gateway
) -> None:
    before = dict(gateway.ready)
    machine = next(machine for machine in cluster.machines if machine.actors)
    actor = machine.actors[0]
    own = [one for one in machine.engines if one.parent == actor.pid]
    kill(actor.pid)
    await gateway.until(lambda: set(gateway.ready) - set(before) and len(gateway.ready) == 2)
    assert {one.name for one in gateway.ready.values()} == {"m/0", "m/1"}
    (lost,) = set(before) - set(gateway.ready)
    assert gateway.link.view is not None
    assert lost in gateway.link.view.ended
    assert alive(own) == []


async def test_engines_of_a_machine_that_dies_are_replaced_and_none_is_left_behind(
    cluster: RayCluster, gateway: Gateway
) -> None:
    machine = cluster.add_machine()
    dying = next(one for one in cluster.machines if one.actors)
    lost = {one.info.uid for one in gateway.ready.values() if one.machine == dying.address}
    left = cluster.kill_machine(dying)
    await gateway.until(lambda: len(gateway.ready) == 2 and not lost & set(gateway.ready))
    assert all(one.machine != dying.address for one in gateway.ready.values())
    await gateway.until(lambda: not alive(left), 10)
    assert machine in cluster.machines


async def test_a_wrong_token_is_told_in_one_sentence_within_five_seconds(
    cluster: RayCluster, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("this-is-another-token")
    one = Gateway(cluster, token_file=str(file))
    await one.start()
    try:
        took = await one.until(lambda: "token" in one.link.why)
        assert one.link.why == (
            f"The cluster at {cluster.address} refuses this token: copy the one that "
            "`reverie cluster head` made there."
        )
        assert took < 5
    finally:
        await one.stop()


async def test_engines_run_on_while_the_head_is_away_and_are_kept_when_it_is_back(
    cluster: RayCluster, gateway: Gateway
) -> None:
    view = gateway.link.view
    assert view is not None
    before = dict(gateway.ready)
    engines = [engine for machine in cluster.machines for engine in machine.engines]
    left = cluster.kill_machine(cluster.head)
    await gateway.until(lambda: "can't be reached" in gateway.link.why)
    assert set(gateway.ready) == set(before)
    await gateway.until(lambda: not alive(left))
    await asyncio.to_thread(cluster.start_head)
    await gateway.until(
        lambda: gateway.link.view.incarnation != view.incarnation and gateway.link.view.complete
    )
    await asyncio.sleep(1)
    assert set(gateway.ready) == set(before)
    assert alive(engines) == engines


def test_a_machine_that_is_no_part_of_the_cluster_is_told_how_to_become_one(
    cluster: RayCluster,
) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no process may be hidden from others here")
    code = (
        "import sys\n"
        "from reverie.cluster.connection import connect\n"
        "try: connect(*sys.argv[1:])\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [*apart, sys.executable, "-c", code, cluster.address, cluster.token],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout == (
        f"This machine isn't part of the cluster at {cluster.address}: keep `reverie cluster join "
        f"{cluster.address}` running here, with `--engines 0` if it is to run none.\n"
    )
