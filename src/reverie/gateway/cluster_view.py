"""The cluster as its operator sees it, ready for JSON: no engine's key, no path of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_args

from reverie.cluster.messages import (
    Engine,
    EngineState,
    EngineStep,
    Machine,
    MachineState,
    ModelStatus,
)
from reverie.gateway.serving.cluster import Cluster
from reverie.text import without_folders
from reverie.times import format_moment

DescribeCluster: TypeAlias = Callable[[int | None], dict[str, Any] | None]
"""Describes the cluster with so many of its engines and machines; None: none is configured."""

T = TypeVar("T")

ENGINE_STEPS = (*get_args(EngineState), "leaving")
MACHINE_STATES = get_args(MachineState)

_LONGEST = 500
"""Characters of a reason that are shown."""


def describe_cluster(cluster: Cluster, most: int | None = None) -> dict[str, Any]:
    """All of it, as the manager told last.

    Args:
        most: list no more engines and machines than this, those that aren't well first.
    """
    link, running = cluster.link, cluster.running
    view = link.view
    engines = sorted(view.engines if view else (), key=_by_name)
    machines = sorted(view.machines if view else (), key=lambda machine: machine.address)
    models = sorted(view.models if view else (), key=lambda model: model.model)
    steps = Counter((engine.model, engine.step) for engine in engines)
    of_machine = Counter(engine.machine for engine in engines)
    engines_listed = _first(engines, most, lambda engine: engine.step == "ready")
    machines_listed = _first(machines, most, lambda machine: machine.state == "up")
    return {
        "connected": link.connected,
        "since": format_moment(int(cluster.since * 1000)),
        "why": None if link.connected else _shown(link.why) or "It isn't connected yet.",
        "manager": view and {"reverie": view.reverie, "gateways": view.gateways},
        "machines": [_machine(machine, of_machine[machine.address]) for machine in machines_listed],
        "models": [_model(model, steps) for model in models],
        "engines": [_engine(engine, running.get(engine.info.uid, 0)) for engine in engines_listed],
        "unlisted": {
            "machines": len(machines) - len(machines_listed),
            "engines": len(engines) - len(engines_listed),
        },
    }


def _first(all: list[T], most: int | None, well: Callable[[T], bool]) -> list[T]:
    """At most so many of them, those that aren't well first."""
    return all if most is None or len(all) <= most else sorted(all, key=well)[:most]


def _machine(machine: Machine, engines: int) -> dict[str, Any]:
    return {
        "address": machine.address,
        "alive": machine.alive,
        "draining": machine.draining,
        "engines": engines,
        "engine_slots": machine.slots,
        "free_engine_slots": machine.free_slots,
        "gpus": machine.gpus,
        "free_gpus": machine.free_gpus,
        "memory_bytes": machine.memory,
        "free_memory_bytes": machine.free_memory,
    }


def _model(model: ModelStatus, steps: Counter[tuple[str, EngineStep]]) -> dict[str, Any]:
    def count(*names: EngineStep) -> int:
        return sum(steps[model.model, name] for name in names)

    return {
        "model": model.model,
        "least": model.least,
        "most": model.most,
        "wanted": model.wanted,
        "running": count("ready"),
        "starting": count("fetching", "loading", "restarting"),
        "failed": count("failed"),
        "leaving": count("leaving"),
        "in_flight": model.in_flight,
        "waiting": model.waiting,
        "why": _shown(model.why) or None,
        "seconds_to_ready": model.seconds_to_ready,
    }


def _engine(engine: Engine, in_flight: int) -> dict[str, Any]:
    info = engine.info
    return {
        "name": engine.name,
        "model": engine.model,
        "machine": engine.machine,
        "state": info.state,
        "leaving": engine.leaving,
        "slots": info.slots,
        "in_flight": in_flight,
        "context": info.context or None,
        "memory_bytes": info.memory or None,
        "url": info.url or None,
        "why": _shown(info.why) or None,
        "seconds_to_ready": info.seconds_to_ready,
    }


def _by_name(engine: Engine) -> tuple[str, int, str]:
    number = engine.name.rpartition("/")[2]
    return engine.model, int(number) if number.isdecimal() else 0, engine.info.uid


def _shown(why: str) -> str:
    return without_folders(why)[:_LONGEST]
