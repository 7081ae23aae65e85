"""Engines' actors as the manager starts and ends them. Under requests: test_streams."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec.structs import replace

from reverie.cluster.messages import encode
from tests.cluster.engines import scripted
from tests.cluster.ray_cluster import Process, RayCluster, alive, all_processes, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head that runs engines, and says that it has a GPU."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    one = RayCluster(tmp_path_factory.mktemp("cluster"), worker=5)
    try:
        one.start_head("--engines", "2", "--gpus", "1")
        yield one
    finally:
        one.stop()


DRIVER = """
import asyncio, sys
from reverie.cluster.connection import connect
connect(*sys.argv[1:3])
from reverie.cluster import actors
from reverie.cluster.actors import RayLauncher
from reverie.cluster.launcher import EngineDied, LaunchFailed
from reverie.cluster.messages import EngineSpec, decode

async def main(spec, case):
    launcher = RayLauncher()
    machine = next(one for one in await launcher.machines() if one.free_slots)
    if case == "late":
        actors._HEAD_DEADLINE = 0.001
    try:
        handle = await launcher.start("other/0", case, spec, machine)
    except LaunchFailed as failed:
        print(failed, flush=True)
        await asyncio.sleep(60)
    seen = 0
    while (info := await handle.watch(seen)).state != "ready":
        seen = info.revision
    print(info.state, flush=True)
    sys.stdin.readline()
    try:
        if case == "broken":
            await handle.watch("no number")
        else:
            await handle._actor.stop.remote()
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main(decode(sys.argv[3].encode(), EngineSpec), sys.argv[4]))
"""


class Driver:
    """Starts an engine as the manager does, and then does what a case says."""

    def __init__(self, cluster: RayCluster, case: str, **settings: float) -> None:
        self._cluster = cluster
        self._before = {one.pid for one in cluster.find("ray::EngineActor")}
        spec = encode(replace(scripted(cluster.folder, "other"), **settings)).decode()
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, cluster.address, cluster.token, spec, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def actors(self) -> list[Process]:
        found = self._cluster.find("ray::EngineActor")
        return [one for one in found if one.pid not in self._before]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def drive(cluster: RayCluster) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(case: str, **settings: float) -> Driver:
        drivers.append(Driver(cluster, case, **settings))
        return drivers[-1]

    yield start
    for one in drivers:
        one.end()


@pytest.mark.parametrize(
    ("case", "says"), [("broken", "EngineDied"), ("stopped", "ActorDiedError")]
)
def test_an_engine_that_counts_no_more_leaves_no_process(
    drive: Callable[..., Driver], case: str, says: str
) -> None:
    driver = drive(case)
    assert driver.says() == "ready"
    (actor,) = driver.actors()
    (engine,) = [one for one in all_processes() if one.parent == actor.pid]
    assert gpus_of(engine) == ""  # it asked for none
    driver.go_on()
    assert driver.says() == says
    until(lambda: not driver.actors() and not alive([engine]), 10)


def test_an_engine_on_gpus_needs_none_of_the_memory_of_its_machine(
    drive: Callable[..., Driver],
) -> None:
    driver = drive("stopped", gpus=1.0, memory=2**45)
    assert driver.says() == "ready"
    (actor,) = driver.actors()
    (engine,) = [one for one in all_processes() if one.parent == actor.pid]
    assert gpus_of(engine) == "0"
    driver.go_on()
    until(lambda: not driver.actors(), 10)


def gpus_of(engine: Process) -> str:
    environ = Path(f"/proc/{engine.pid}/environ").read_text().split("\0")
    return dict(one.split("=", 1) for one in environ if one)["CUDA_VISIBLE_DEVICES"]


def test_an_engine_that_the_head_starts_too_late_is_ended(drive: Callable[..., Driver]) -> None:
    driver = drive("late")
    assert driver.says() == "Ray can't start an engine: the head doesn't answer"
    time.sleep(2)  # it may come and be ended before anybody sees it
    until(lambda: not driver.actors(), 10)
