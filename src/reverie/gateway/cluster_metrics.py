"""Prometheus metrics of a gateway's cluster, as its manager told last. Without a cluster: none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reverie.cluster.messages import View
from reverie.gateway import metric_names
from reverie.gateway.cluster_view import (
    ENGINE_STEPS,
    MACHINE_STATES,
)
from reverie.gateway.serving.cluster import Cluster
from reverie.gateway.tallies import gauge, value_of


class ClusterMetrics(Collector):
    """What the manager told last. Labels are bounded: models of the gateways' configurations.

    Args:
        cluster: returns the gateway's cluster; None: none is configured.
    """

    def __init__(self, cluster: Callable[[], Cluster | None]) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        cluster = self._cluster()
        if cluster is None:
            return
        link = cluster.link
        yield value_of(metric_names.CLUSTER_CONNECTED, int(link.connected))
        if link.view is not None:
            yield from _of(link.view)


def _of(view: View) -> Iterable[Metric]:
    yield value_of(metric_names.CLUSTER_GATEWAYS, view.gateways)
    machines = gauge(metric_names.CLUSTER_MACHINES)
    standing = Counter(machine.state for machine in view.machines)
    for state in MACHINE_STATES:
        machines.add_metric([state], standing[state])
    engines = gauge(metric_names.CLUSTER_ENGINES)
    wanted = gauge(metric_names.CLUSTER_WANTED)
    short = gauge(metric_names.CLUSTER_SHORT)
    steps = Counter((engine.model, engine.step) for engine in view.engines)
    for model in view.models:
        wanted.add_metric([model.model], model.wanted)
        short.add_metric([model.model], int(bool(model.why)))
    named = {model.model for model in view.models} | {engine.model for engine in view.engines}
    for name in sorted(named):
        for step in ENGINE_STEPS:
            engines.add_metric([name, step], steps[name, step])
    yield from (machines, engines, wanted, short)
