"""A link to a cluster that tells what a test has it tell, and keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reverie.cluster.messages import (
    Engine,
    EngineInfo,
    EngineState,
    Machine,
    ModelStatus,
    Report,
    View,
    Wanted,
)

GIB = 2**30
SECRET = "the-key-of-an-engine"
NO_ROOM = "No machine has a free GPU: each engine needs 1."


class ScriptedLink:
    """A ``Link`` without a cluster behind it."""

    gateway = "gw-1"

    def __init__(self, view: View | None = None, why: str = "") -> None:
        self.view = view
        self.connected = not why
        self.why = why
        self.deployed: list[Wanted] = []
        self.reports: list[Report] = []
        self._on_change: Callable[[], None] = lambda: None

    async def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def deploy(self, models: Sequence[Wanted]) -> None:
        self.deployed = list(models)

    def report(self, report: Report) -> None:
        self.reports.append(report)

    async def stop(self) -> None: ...

    def show(self, view: View | None = None, why: str = "") -> None:
        """Tell another view, or, with a reason, that the manager doesn't answer any more."""
        self.view = view or self.view
        self.connected, self.why = not why, why
        self._on_change()


class ScriptedCluster:
    """A gateway's cluster over a scripted link."""

    def __init__(self, view: View | None = None, why: str = "") -> None:
        self.link = ScriptedLink(view, why)
        self.since = 0.0
        self.running: dict[str, int] = {}


def engine(
    name: str, state: EngineState = "ready", *, leaving: bool = False, **more: Any
) -> Engine:
    info = {"slots": 8, "context": 4096, "memory": GIB, **more}
    info.setdefault("url", "http://10.0.0.2:9100/v1")
    uid = info.pop("uid", f"uid-of-{name}")
    machine = info.pop("machine", "10.0.0.2")
    about = EngineInfo(uid, 1, state, key=SECRET, **info)
    return Engine(name, name.rpartition("/")[0], "digest", machine, about, leaving)


def machine(address: str, **more: Any) -> Machine:
    return Machine(
        **{
            "id": f"id-{address}",
            "address": address,
            "alive": True,
            "slots": 4,
            "free_slots": 2,
            "gpus": 2.0,
            "free_gpus": 0.0,
            "memory": 64 * GIB,
            "free_memory": 32 * GIB,
            **more,
        }
    )


def model(name: str, **more: Any) -> ModelStatus:
    return ModelStatus(
        **{"model": name, "digest": "digest", "least": 1, "most": 3, "wanted": 3, **more}
    )


def a_view(version: int = 1, **more: Any) -> View:
    """Three machines, one of them lost, and four engines of ``m``, which wants a fifth."""
    return View(
        **{
            "incarnation": "one",
            "version": version,
            "complete": True,
            "engines": [
                engine("m/10"),
                engine("m/2", seconds_to_ready=4.5),
                engine("m/3", "loading", machine="10.0.0.3", url="", why="It loads /srv/m.gguf."),
                engine("m/4", leaving=True, machine="10.0.0.3"),
            ],
            "ended": [],
            "models": [model("m", most=5, wanted=4, in_flight=9, waiting=2, why=NO_ROOM)],
            "machines": [
                machine("10.0.0.2"),
                machine("10.0.0.3", draining=True),
                machine("10.0.0.4", alive=False),
            ],
            "gateways": 2,
            "reverie": "1.2.3",
            **more,
        }
    )
