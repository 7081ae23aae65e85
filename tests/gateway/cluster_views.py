"""A cluster with machines and engines of every kind, as its manager tells of it."""

from __future__ import annotations

from typing import Any

from reverie.cluster.messages import Engine, EngineInfo, EngineState, Machine, ModelStatus, View
from reverie.gateway.serving.cluster import Cluster
from reverie.settings import ClusterSettings
from tests.gateway.serving.fake_link import CLUSTER, FakeLink

GIB = 2**30
SECRET = "the-key-of-an-engine"
NO_ROOM = "No machine has a free GPU: each engine needs 1."


def cluster_of(view: View | None = None, why: str = "") -> Cluster:
    """A gateway's cluster, over such a link."""
    return Cluster(ClusterSettings.model_validate(CLUSTER), link_to(view, why))


def link_to(view: View | None = None, why: str = "") -> FakeLink:
    """A link on which this view was told; with a reason, nothing comes after it."""
    link = FakeLink()
    if view is not None:
        link.tell(view)
    if why:
        link.lose(why)
    return link


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
