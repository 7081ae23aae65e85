"""What the gateways of a cluster ask for, need, and have applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reverie.cluster.messages import Demand, Loads, Report, Wanted

GONE_AFTER = 5.0
"""Seconds without a word of it after which a gateway is gone."""
REMEMBERED = 60.0
"""Seconds after which the configuration of a gateway that is gone no longer outdoes an older one:
one that crashes with a new configuration and comes back changes nothing."""


@dataclass(slots=True, eq=False)
class Gateway:
    """What one gateway has told."""

    name: str
    heard: float
    models: Mapping[str, Wanted] | None = None
    """None before it has told."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    incarnation: str = ""
    version: int = 0

    def holds(self, uid: str, incarnation: str, version: int) -> bool:
        """Whether it may yet use an engine that the view of this version says is leaving."""
        applied = self.incarnation == incarnation and self.version >= version
        return not applied or self.running.get(uid, 0) > 0


@dataclass(slots=True)
class Load:
    """What runs and waits of one model, on all gateways."""

    in_flight: int = 0
    waiting: int = 0


class Gateways:
    """All gateways that have told something lately."""

    def __init__(self) -> None:
        self._known: dict[str, Gateway] = {}

    def deploy(self, name: str, models: Sequence[Wanted], now: float) -> None:
        self._heard(name, now).models = {one.spec.model: one for one in models}

    def report(self, report: Report, now: float) -> bool:
        """Returns whether requests have begun to wait."""
        gateway = self._heard(report.gateway, now)
        before, gateway.demand = gateway.demand, report.demand
        gateway.running = report.running
        gateway.incarnation, gateway.version = report.incarnation, report.version
        return any(
            one.waiting > 0 and not (model in before and before[model].waiting > 0)
            for model, one in report.demand.items()
        )

    def others(self, name: str, now: float) -> Loads:
        """What all living gateways but this one do."""
        running: dict[str, int] = {}
        gateways: dict[str, int] = {}
        for one in self.living(now):
            if one.name == name:
                continue
            for uid, count in one.running.items():
                running[uid] = running.get(uid, 0) + count
            for model, demand in one.demand.items():
                if demand.in_flight or demand.waiting:
                    gateways[model] = gateways.get(model, 0) + 1
        return Loads(running, gateways)

    def living(self, now: float) -> list[Gateway]:
        """Those that are there. Forgets those that are long gone."""
        for one in [one for one in self._known.values() if now - one.heard >= REMEMBERED]:
            del self._known[one.name]
        return [one for one in self._known.values() if now - one.heard < GONE_AFTER]

    def wanted(self, living: Sequence[Gateway]) -> dict[str, Wanted]:
        """What holds for each model that a living gateway lists: the latest configuration."""
        listed = {model for one in living for model in one.models or ()}
        found: dict[str, Wanted] = {}
        for gateway in self._known.values():
            for model, one in (gateway.models or {}).items():
                if model in listed and (model not in found or _rank(one) > _rank(found[model])):
                    found[model] = one
        return found

    def _heard(self, name: str, now: float) -> Gateway:
        gateway = self._known.setdefault(name, Gateway(name, now))
        gateway.heard = now
        return gateway


def load_of(living: Sequence[Gateway]) -> dict[str, Load]:
    """What these gateways need together, by model."""
    loads: dict[str, Load] = {}
    for gateway in living:
        for model, demand in gateway.demand.items():
            load = loads.setdefault(model, Load())
            load.in_flight += max(0, demand.in_flight)
            load.waiting += max(0, demand.waiting)
    return loads


def running_on(uid: str, living: Sequence[Gateway]) -> int:
    """The requests that these gateways have on one engine."""
    return sum(gateway.running.get(uid, 0) for gateway in living)


def _rank(one: Wanted) -> tuple[int, str, int, int, float]:
    # Of equally late ones any will do, as long as it stays the same one.
    return (one.generation, one.spec.digest, one.most, one.least, one.idle)
