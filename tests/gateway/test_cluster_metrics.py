"""What Prometheus reads of a cluster."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, generate_latest

from reverie.gateway.cluster_metrics import ClusterMetrics
from reverie.gateway.metric_names import TABLE
from reverie.gateway.serving.cluster import Cluster
from tests.gateway.cluster_views import a_view, cluster_of, model


def rendered(cluster: Cluster | None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(ClusterMetrics(lambda: cluster))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_machines_and_engines_are_counted_by_their_states() -> None:
    lines = rendered(
        cluster_of(
            a_view(models=[model("m", wanted=4, why="No machine has a free GPU."), model("o")])
        )
    )
    for line in (
        "reverie_cluster_connected 1.0",
        "reverie_cluster_gateways 2.0",
        'reverie_cluster_machines{state="up"} 1.0',
        'reverie_cluster_machines{state="draining"} 1.0',
        'reverie_cluster_machines{state="lost"} 1.0',
        'reverie_cluster_engines{model="m",state="ready"} 2.0',
        'reverie_cluster_engines{model="m",state="loading"} 1.0',
        'reverie_cluster_engines{model="m",state="leaving"} 1.0',
        'reverie_cluster_engines{model="m",state="failed"} 0.0',
        'reverie_cluster_engines{model="o",state="ready"} 0.0',
        'reverie_cluster_engines_wanted{model="m"} 4.0',
        'reverie_cluster_short{model="m"} 1.0',
        'reverie_cluster_short{model="o"} 0.0',
    ):
        assert line in lines


def test_a_cluster_tells_all_that_the_table_has_of_it() -> None:
    lines = rendered(cluster_of(a_view(models=[model("m", wanted=4)])))
    told = {re.split(r"[{ ]", line)[0] for line in lines}
    assert told == {name for name in TABLE if name.startswith("reverie_cluster_")}


def test_no_label_is_a_machine_or_a_sentence() -> None:
    text = "\n".join(rendered(cluster_of(a_view())))
    assert "10.0.0" not in text
    assert "GPU" not in text


def test_a_cluster_that_never_answered_is_told_so_and_none_isnt_told_of() -> None:
    assert rendered(cluster_of(why="It isn't there.")) == ["reverie_cluster_connected 0.0"]
    assert rendered(None) == []
