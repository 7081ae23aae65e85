"""What ``reverie status`` and ``reverie top`` tell of a cluster."""

from __future__ import annotations

import asyncio
import json

import pytest

from reverie.cli.cluster_lines import cluster_line, cluster_trouble
from reverie.gateway.cluster_view import describe_cluster
from reverie.testing import ScriptedEngine
from tests.cli.command import reverie_here
from tests.gateway.cluster_views import a_view, cluster_of, engine, link_to, machine, model
from tests.gateway.serving.fake_link import CLUSTER
from tests.harness import StartGateway

LINE = "cluster: 3 machines (1 lost, 1 draining), 2 of 4 wanted engines run, 1 on the way"
SHORT = "m has 2 of 4 engines: No machine has a free GPU: each engine needs 1."


def test_machines_and_engines_are_a_line_and_each_trouble_a_sentence() -> None:
    told = describe_cluster(cluster_of(a_view()))
    assert cluster_line(told) == LINE
    assert cluster_trouble(told) == [SHORT]


def test_what_is_well_is_one_line() -> None:
    view = a_view(
        engines=[engine("m/0")], machines=[machine("10.0.0.2")], models=[model("m", wanted=1)]
    )
    told = describe_cluster(cluster_of(view))
    assert cluster_line(told) == "cluster: 1 machine, 1 of 1 wanted engine run"
    assert cluster_trouble(told) == []


def test_a_manager_that_is_away_and_an_engine_that_failed_are_trouble() -> None:
    failed = engine("m/0", "failed", why="/srv/m.gguf isn't a GGUF file.")
    view = a_view(engines=[failed], models=[])
    cluster = cluster_of(view, why="No head answers.")
    cluster.since = 0.0
    told = describe_cluster(cluster)
    assert cluster_trouble(told) == [
        "the cluster's manager hasn't answered since 1970-01-01T00:00:00Z: No head answers.",
        "m/0 on 10.0.0.2 failed: m.gguf isn't a GGUF file.",
    ]


@pytest.mark.parametrize("verb", ["status", "top"])
async def test_the_commands_tell_of_it(
    start_gateway: StartGateway, engine: ScriptedEngine, verb: str
) -> None:
    key = {"REVERIE_ADMIN_KEY": "a-very-secret-admin-key"}
    gateway = await start_gateway(engine, environ=key, cluster=CLUSTER, link=link_to(a_view()))
    done = await asyncio.to_thread(reverie_here, verb, "--url", gateway.url, **key)
    assert (done.returncode, done.stderr) == (0, "")
    assert {LINE, SHORT} <= set(done.stdout.splitlines())
    done = await asyncio.to_thread(reverie_here, verb, "--json", "--url", gateway.url, **key)
    assert json.loads(done.stdout)["cluster"]["models"][0]["wanted"] == 4
