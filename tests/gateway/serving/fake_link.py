"""A cluster without machines: a test says what its manager tells, and reads what it was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reverie.cluster.messages import (
    Engine,
    EngineInfo,
    Loads,
    ModelStatus,
    Report,
    View,
    Wanted,
)
from reverie.testing import ScriptedEngine

CLUSTER = {"address": "10.0.0.1"}


def info(url: str = "http://127.0.0.1:9/v1", uid: str = "u0", **more: Any) -> EngineInfo:
    values = {"revision": 1, "state": "ready", "key": "secret-key", "slots": 4, "context": 4096}
    return EngineInfo(uid=uid, url=url, **{**values, **more})


def member(
    at: ScriptedEngine | str = "http://127.0.0.1:9/v1",
    number: int = 0,
    uid: str = "",
    *,
    model: str = "m",
    leaving: bool = False,
    digest: str = "",
    family: str = "",
    **more: Any,
) -> Engine:
    url = at if isinstance(at, str) else at.url
    told = info(url, uid or f"u{number}", **more)
    machine = f"10.0.0.{number + 2}"
    return Engine(f"{model}/{number}", model, digest, machine, told, leaving, family)


class FakeLink:
    """A link whose other end is the test."""

    def __init__(self) -> None:
        self.gateway = "gateway-1"
        self.view: View | None = None
        self.loads: Loads | None = None
        self.connected = False
        self.why = ""
        self.deployed: list[Sequence[Wanted]] = []
        self.reports: list[Report] = []
        self.on_report: Callable[[Report], None] = lambda _: None
        self.started = self.stopped = False
        self._version = 0
        self._on_change: Callable[[], None] = lambda: None

    async def start(self, on_change: Callable[[], None]) -> None:
        self.started = True
        self._on_change = on_change

    def deploy(self, models: Sequence[Wanted]) -> None:
        self.deployed.append(models)

    def report(self, report: Report) -> None:
        self.reports.append(report)
        self.on_report(report)

    async def stop(self) -> None:
        self.stopped = True

    @property
    def wanted(self) -> dict[str, Wanted]:
        return {one.spec.model: one for one in self.deployed[-1]}

    def show(
        self,
        *engines: Engine,
        complete: bool = True,
        ended: Sequence[str] = (),
        models: Sequence[ModelStatus] = (),
        incarnation: str = "a",
        gateways: int = 1,
    ) -> View:
        """The manager tells what there is."""
        self._version += 1
        return self.tell(
            View(
                incarnation,
                self._version,
                complete,
                list(engines),
                list(ended),
                list(models),
                gateways=gateways,
            )
        )

    def tell(self, view: View) -> View:
        """As ``show``, with a view of the test's own."""
        self.connected, self.why = True, ""
        self.view = view
        self._on_change()
        return view

    def tell_loads(self, loads: Loads) -> None:
        """The manager tells what other gateways do."""
        self.loads = loads
        self._on_change()

    def lose(self, why: str) -> None:
        self.connected, self.why = False, why
        self._on_change()
