"""What clients of two gateways notice of a cluster's failures: nothing but a pause. And who isn't
let into a cluster.

Each answer is compared to the letter with what an engine says that nobody disturbs. What a failure
cost is printed (``pytest -s``), and ``make bench-cluster-failures`` makes a table of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

import reverie
from reverie.cluster.child_link import ChildLink
from reverie.cluster.messages import Disconnected, Up
from reverie.cluster.variables import child_variables
from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL, ClusterSettings
from tests.cluster.ray_cluster import Machine, Process, RayCluster, alive, all_processes, kill
from tests.cluster.streams import (
    Gateway,
    Streams,
    configuration,
    engines_of,
    note,
    running_gateway,
    scripted_model,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

UNNOTICED = 1.5
"""Seconds that a client may wait for its next word while nothing happens that concerns it. All
processes of the cluster share this machine."""


class Site:
    """A cluster and its two gateways."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        models = (
            scripted_model(folder, "m", "2", slots=32, default=True),
            scripted_model(folder, "some", "1-3", slots=2),
            scripted_model(folder, "rare", "0-2", slots=2),
        )
        self._text = configuration(cluster, "".join(models))
        self._stack = ExitStack()
        self.gateways = [self.start_gateway("one"), self.start_gateway("two")]

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    def start_gateway(self, name: str) -> Gateway:
        return self._stack.enter_context(
            running_gateway(self.cluster, self.folder / name, self._text)
        )

    def stop(self) -> None:
        self._stack.close()

    def is_whole(self) -> bool:
        """Whether both gateways see two engines of the model."""
        return all(len(one.ready()) == 2 for one in self.gateways)

    async def until_whole(self) -> float:
        return await self.gateway.until(self.is_whole)

    async def until_replaced(self, before: dict[str, str]) -> float:
        """Wait until there are two engines, and not those of before."""
        return await self.gateway.until(
            lambda: (now := self.gateway.ready()) != before and len(now) == 2
        )

    def machine(self) -> Machine:
        """One that runs engines of the model."""
        address = self.gateway.machine_of(min(self.gateway.ready()))
        return next(one for one in self.cluster.machines if one.address == address)

    def engine(self) -> tuple[Process, Process]:
        """An engine's actor, and its engine."""
        url = min(self.gateway.ready().values())
        port = url.rpartition(":")[2].removesuffix("/v1")
        for machine in self.cluster.machines:
            for engine in machine.engines:
                if f"--port {port} " in f"{engine.command} ":
                    return next(one for one in machine.actors if one.pid == engine.parent), engine
        raise AssertionError(f"{url} has no process")


@pytest.fixture(scope="module")
def one_site(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    one = Site(cluster, tmp_path_factory.mktemp("site"))
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
async def site(one_site: Site) -> Site:
    """One with all its engines."""
    await one_site.until_whole()
    return one_site


async def test_two_gateways_share_the_engines_that_they_ask_for(site: Site) -> None:
    async with Streams(site.gateways) as streams:
        told = site.gateway.cluster()
    assert streams.broken == []
    note("nothing", gap=streams.gap)
    assert site.gateways[0].ready() == site.gateways[1].ready()
    assert set(site.gateway.ready()) == {"m/0", "m/1"}
    assert told["manager"]["gateways"] == 2
    machines = {machine.address: machine for machine in site.cluster.machines}
    for name, url in site.gateway.ready().items():
        machine = site.gateway.machine_of(name)
        assert url.startswith(f"http://{machine}:")
        assert machines[machine].engines
    slots = {one["address"]: one["engine_slots"] for one in told["machines"]}
    assert slots == {"127.0.0.2": 0, "127.0.0.3": 4, "127.0.0.4": 4}


async def test_engines_of_a_machine_that_dies_are_replaced_and_none_is_left_behind(
    site: Site,
) -> None:
    await asyncio.to_thread(site.cluster.add_machine)
    before, machine = site.gateway.ready(), site.machine()
    async with Streams(site.gateways) as streams:
        left = site.cluster.kill_machine(machine)
        took = await site.until_replaced(before)
    assert streams.broken == []
    note("a machine", gap=streams.gap, back=took)
    assert site.machine() is not machine
    await site.gateway.until(lambda: alive(left) == [], 10)


async def test_an_engine_that_is_killed_comes_back_while_its_answers_go_on_elsewhere(
    site: Site,
) -> None:
    before = site.gateway.ready()
    actor, engine = site.engine()
    async with Streams(site.gateways) as streams:
        kill(engine.pid)
        began = time.monotonic()
        while not any(one.parent == actor.pid for one in engines_of(site.cluster)):
            await asyncio.sleep(0.02)
        await site.until_whole()
        took = time.monotonic() - began
    assert streams.broken == []
    note("an engine's llama.cpp", gap=streams.gap, back=took)
    assert site.gateway.ready() == before


async def test_an_engine_whose_actor_is_killed_is_replaced_under_its_name(site: Site) -> None:
    before = site.gateway.ready()
    actor, engine = site.engine()
    async with Streams(site.gateways) as streams:
        kill(actor.pid)
        took = await site.until_replaced(before)
    assert streams.broken == []
    note("an engine's process", gap=streams.gap, back=took)
    assert set(site.gateway.ready()) == {"m/0", "m/1"}
    assert alive([engine]) == []


async def test_a_manager_that_is_killed_comes_back_and_keeps_the_engines(site: Site) -> None:
    before, engines = site.gateway.ready(), engines_of(site.cluster)
    (manager,) = site.cluster.find("ray::ManagerActor")
    async with Streams(site.gateways) as streams:
        kill(manager.pid)
        began = time.monotonic()
        await site.gateway.until(lambda: not site.gateway.cluster()["connected"])
        await site.gateway.until(
            lambda: (
                (told := site.gateway.cluster())["connected"] and told["manager"]["gateways"] == 2
            )
        )
        took = time.monotonic() - began
    assert streams.broken == []
    note("the manager", gap=streams.gap, back=took)
    assert streams.gap < UNNOTICED
    await asyncio.sleep(1)  # what it would start or stop by mistake
    assert site.gateway.ready() == before
    assert alive(engines) == engines


async def test_a_child_that_is_killed_is_replaced_and_the_gateway_goes_on_with_what_it_knows(
    site: Site,
) -> None:
    before, old = site.gateway.ready(), site.gateway.child
    async with Streams(site.gateways) as streams:
        kill(old)
        began = time.monotonic()
        await site.gateway.until(lambda: not site.gateway.cluster()["connected"])
        assert site.gateway.ready() == before
        async with Streams([site.gateway], 4, words=5) as meanwhile:
            pass
        await site.gateway.until(lambda: site.gateway.cluster()["connected"])
        took = time.monotonic() - began
    assert streams.broken == meanwhile.broken == []
    note("a gateway's child", gap=streams.gap, back=took)
    assert streams.gap < UNNOTICED
    assert site.gateway.child != old
    assert site.gateway.ready() == before


async def test_a_gateway_that_is_killed_breaks_its_own_answers_which_may_be_asked_for_again(
    site: Site,
) -> None:
    engines, (one, two) = engines_of(site.cluster), site.gateways
    child = two.child
    keys = [f"key-{number}" for number in range(20)]
    async with Streams(site.gateways, keys=keys) as streams:
        kill(two.pid)
    began = time.monotonic()
    assert {answer.finish for answer in streams.of_gateway(0)} == {"length"}
    assert {answer.finish for answer in streams.of_gateway(1)} == {"ClientPayloadError"}
    assert all(answer in streams.of_gateway(1) for answer in streams.broken)
    site.gateways[1] = await asyncio.to_thread(site.start_gateway, "two")
    async with Streams([site.gateways[1]], 10, keys=keys[1::2]) as again:
        took = time.monotonic() - began
    assert again.broken == []
    note("a gateway", gap=max(answer.gap for answer in streams.of_gateway(0)), back=took)
    await one.until(lambda: one.cluster()["manager"]["gateways"] == 2)
    assert child not in {process.pid for process in all_processes()}
    assert alive(engines) == engines


async def test_an_engine_that_cannot_be_reached_is_left_alone_and_asked_again_later(
    site: Site,
) -> None:
    before = site.gateway.ready()
    actor, engine = site.engine()
    async with Streams(site.gateways) as streams:
        os.kill(engine.pid, signal.SIGSTOP)
    try:
        assert streams.broken == []
        async with Streams(site.gateways, 4, words=5) as meanwhile:
            pass
        assert meanwhile.broken == []
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    note("the network between a gateway and a machine", gap=streams.gap)
    assert site.gateway.ready() == before
    assert alive([actor, engine]) == [actor, engine]


async def test_a_model_grows_with_its_requests_and_shrinks_without_breaking_one(
    site: Site,
) -> None:
    one = site.gateway
    assert len(one.ready("some")) == 1
    began = time.monotonic()
    async with Streams(site.gateways, 6, model="some", words=100) as streams:
        await one.until(lambda: len(one.ready("some")) == 3)
        up = time.monotonic() - began
    assert streams.broken == []
    await one.until(lambda: len(one.ready("some")) == 1)
    note("scale from 1 to 3", back=up)


async def test_a_model_that_nobody_asks_for_runs_nowhere_and_its_first_request_waits(
    site: Site,
) -> None:
    one = site.gateway
    assert one.ready("rare") == {}
    began = time.monotonic()
    async with Streams(site.gateways, 4, model="rare") as streams:
        took = time.monotonic() - began
        await one.until(lambda: len(one.ready("rare")) == 2)
    assert streams.broken == []
    note("scale from 0 to 1, until the first request is served", back=took)
    await one.until(lambda: one.ready("rare") == {})


async def test_a_machine_that_drains_under_load_loses_its_engines_and_no_answer(
    site: Site,
) -> None:
    machine = site.machine()
    async with Streams(site.gateways) as streams:
        drained = await _reverie(site.cluster, "drain", machine.address)
    assert streams.broken == []
    note("a drain", gap=streams.gap)
    assert streams.gap < UNNOTICED
    assert drained == 0
    assert machine.actors == machine.engines == []
    assert await _reverie(site.cluster, "resume", machine.address) == 0
    await site.until_whole()


async def test_a_machine_without_a_word_to_the_head_serves_until_it_is_known_to_have_ended(
    site: Site,
) -> None:
    before, machine = site.gateway.ready(), site.machine()
    left = [*machine.actors, *machine.engines]
    os.kill(machine.raylet, signal.SIGSTOP)
    raylet = machine.raylet
    async with Streams(site.gateways) as streams:
        took = await site.until_replaced(before)
    assert streams.broken == []
    os.kill(raylet, signal.SIGCONT)
    await site.gateway.until(lambda: alive(left) == [])
    note("the network between the head and a machine", gap=streams.gap, back=took)
    site.cluster.machines.remove(machine)
    assert await asyncio.to_thread(machine.command.wait, 20) == 1


async def test_answers_go_on_without_a_head_and_it_keeps_the_engines_when_it_is_back(
    site: Site,
) -> None:
    before, engines = site.gateway.ready(), engines_of(site.cluster)
    async with Streams(site.gateways) as streams:
        left = site.cluster.kill_machine(site.cluster.head)
        await site.gateway.until(lambda: not site.gateway.cluster()["connected"])
        await site.gateway.until(lambda: alive(left) == [])
        began = time.monotonic()
        await asyncio.to_thread(site.cluster.start_head)
    assert streams.broken == []
    await site.gateway.until(
        lambda: (told := site.gateway.cluster())["connected"] and told["manager"]["gateways"] == 2
    )
    note("the head, with storage", gap=streams.gap, back=time.monotonic() - began)
    assert streams.gap < UNNOTICED
    await asyncio.sleep(1)  # what it would start or stop by mistake
    assert site.gateway.ready() == before
    assert alive(engines) == engines


# The real model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_gateway(one_site: Site) -> Iterator[Gateway]:
    """A third one, with one model twice: on engines of the cluster, and on its own machine.

    One slot each: what else runs in the same batch has a part in the model's numbers.
    """
    one_site.cluster.add_machine()  # two have died
    keys = f'source = "{fetch(DEFAULT_MODEL)}"\nslots = 1\nthreads = 1\ncontext = 1024\n'
    models = f'[[models]]\nname = "there"\nengines = "2"\n{keys}[[models]]\nname = "here"\n{keys}'
    text = configuration(one_site.cluster, models)
    with running_gateway(one_site.cluster, one_site.folder / "real", text) as gateway:
        yield gateway


async def _greedy(gateway: Gateway, model: str) -> str:
    async with Streams([gateway], 1, model=model, words=40) as streams:
        pass
    (answer,) = streams.answers
    assert answer.finish in ("stop", "length")
    assert answer.text
    return answer.text


@pytest.mark.real
async def test_an_answer_of_the_cluster_is_that_of_an_engine_of_the_gateways_own_machine(
    site: Site, real_gateway: Gateway
) -> None:
    await real_gateway.until(lambda: len(real_gateway.ready("there")) == 2)
    assert await _greedy(real_gateway, "there") == await _greedy(real_gateway, "here")


@pytest.mark.real
async def test_an_answer_whose_engine_is_killed_ends_as_if_it_had_lived(
    site: Site, real_gateway: Gateway
) -> None:
    await real_gateway.until(lambda: len(real_gateway.ready("there")) == 2)
    undisturbed = await _greedy(real_gateway, "there")
    async with Streams([real_gateway], 1, model="there", words=40) as streams:
        address = await asyncio.to_thread(real_gateway.busy, "there")
        machine = next(one for one in site.cluster.machines if one.address == address)
        engine = next(one for one in machine.engines if "xllamacpp" in one.command)
        kill(engine.parent)
    (answer,) = streams.answers
    assert (answer.text, answer.finish) == (undisturbed, "length")
    note("an engine's process, with the real model", gap=streams.gap)


# Who isn't let in ---------------------------------------------------------------------------


async def test_a_wrong_token_is_told_in_one_sentence_within_five_seconds(
    cluster: RayCluster, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("this-is-another-token")
    link = ChildLink(ClusterSettings(address=cluster.address, token_file=file), cluster.environ)
    told = asyncio.Event()
    began = time.monotonic()
    await link.start(told.set)
    try:
        async with asyncio.timeout(30):
            await told.wait()
        assert link.why == (
            f"The cluster at {cluster.address} refuses this token: copy the one that "
            "`reverie cluster head` made there."
        )
        assert time.monotonic() - began < 5
    finally:
        await link.stop()


def test_a_gateway_of_another_version_is_told_both(cluster: RayCluster) -> None:
    code = (
        "from reverie.cluster import messages\n"
        "messages.PROTOCOL += 1\n"
        "from reverie.cluster.child import main\n"
        "main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, cluster.address, str(os.getpid())],
        env={**cluster.environ, **child_variables(cluster.token, None)},
        stdin=subprocess.PIPE,  # it ends with that
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        assert child.stdout is not None
        told = msgspec.json.decode(child.stdout.read().splitlines()[-1], type=Up)
    assert isinstance(told, Disconnected)
    assert f"runs Reverie {reverie.__version__}" in told.why
    assert "install the same version" in told.why
    assert child.returncode == 1


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


async def _reverie(cluster: RayCluster, *arguments: str) -> int:
    """Run ``reverie cluster`` with this, and give its status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverie", "cluster", *arguments),
        *("--address", cluster.address),
        env=cluster.environ,
    )
    return await process.wait()
