"""A gateway's part in its cluster: it tells what its models need, and heeds what engines there are.

Rule 1: what a view says of leaving engines is in force before the gateway reports that it knows the
view: the manager then stops those that no gateway reports a request on.

Rule 2: reports go out while nothing happens, too. They are the gateway's sign of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from ssl import SSLContext
from typing import Protocol

from reverie.backends.client.connecting import private_tls_context
from reverie.background import Loop
from reverie.cluster.link import Link
from reverie.cluster.messages import (
    Demand,
    Engine,
    EngineSpec,
    Loads,
    ModelStatus,
    Report,
    View,
    Wanted,
)
from reverie.errors import ConfigurationError, ModelError
from reverie.gateway.scheduling.pool import Pool
from reverie.log import fields
from reverie.models.store import find
from reverie.runner.supervisor import Runner
from reverie.settings import ClusterSettings, ModelSettings
from reverie.threads import run_in_daemon_thread
from reverie.times import now_ms

logger = logging.getLogger("reverie.cluster")

BUSY_INTERVAL = 0.25
"""Seconds between two reports while requests run or wait: so late do others know of them."""
IDLE_INTERVAL = 2.0
"""Seconds between two reports otherwise."""
_MIN_INTERVAL = 0.1
"""Seconds between two reports, however much happens."""
_LOADS_LAST = 5.0
"""Seconds after which nothing is known of the other gateways any more."""
_NO_LOADS = Loads({}, {})
_DIFFERENCE_AFTER = 5.0
"""Seconds for which another configuration of a model must hold before it is told: the manager may
not have read this one yet."""


class Participant(Protocol):
    """A model's deployment, whose pool is kept as the cluster is."""

    model: ModelSettings
    pool: Pool

    async def heed(self, view: View) -> None:
        """Change the pool as a view says."""

    def share(self, loads: Loads) -> None:
        """Leave to the other gateways what they use."""

    def cluster_changed(self) -> None:
        """Look again at what the cluster's state means: it was lost, or found."""

    def running(self) -> dict[str, int]:
        """The requests that run on each engine, by its ``uid``."""


class Cluster:
    """The cluster that some models run in.

    Args:
        link: how it is reached. Nothing connects before ``start``.
    """

    def __init__(self, settings: ClusterSettings, link: Link) -> None:
        self.link = link
        self.tls: SSLContext | None = None
        """Checks the certificates of engines."""
        self.since = time.time()
        """When ``link.connected`` last changed, in seconds since 1970."""
        self.demands_tls = settings.tls_ca is not None
        self._settings = settings
        self._deployments: set[Participant] = set()
        self._wanted: dict[str, Wanted] = {}
        self._families: dict[str, str] = {}  # by digest, of all that this gateway ever asked for
        self._loop: Loop | None = None
        self._wake = asyncio.Event()
        self._urgent = False
        self._busy = False
        self._reported_at = -IDLE_INTERVAL
        self._heeded: View | None = None  # by all deployments, unless this is stale
        self._stale = False
        self._loads: Loads | None = None  # the latest that were told, at:
        self._loads_at = 0.0
        self._was_connected = self._was_unreachable = False
        self._heard = False
        self._statuses: dict[str, ModelStatus] = {}  # of the latest view, by model
        self._engines: dict[str, list[Engine]] = {}
        self._sorted: View | None = None
        self._differs_since: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Begin to connect; doesn't wait for it.

        Raises:
            ConfigurationError: ``cluster.tls_ca`` can't be used.
        """
        if self._settings.tls_ca is not None:
            try:
                self.tls = await asyncio.to_thread(private_tls_context, self._settings.tls_ca)
            except OSError as error:
                raise ConfigurationError(
                    [f"cluster.tls_ca: {self._settings.tls_ca} can't be used: {error}"]
                ) from None
        await self.link.start(self._link_changed)
        self._loop = Loop("cluster membership", self._run)

    async def stop(self) -> None:
        """Let go of the cluster, whose engines run on. Idempotent."""
        if self._loop is not None:
            await self._loop.stop()
        await self.link.stop()

    # What is wanted --------------------------------------------------------------------------

    async def specs_of(self, models: Iterable[ModelSettings]) -> dict[str, EngineSpec]:
        """How the engines of each of these models run, of those that run in a cluster."""
        return {
            model.name: EngineSpec.of(model, await _memory_of(model))
            for model in models
            if model.engines
        }

    def deploy(self, models: Iterable[ModelSettings], specs: Mapping[str, EngineSpec]) -> None:
        """Ask for these models from now on, and for no other."""
        self._wanted = {}
        for model in models:
            if (bounds := model.engine_bounds) is None:
                continue
            spec = specs[model.name]
            least, most = bounds
            wanted = Wanted(spec, least, most, self._settings.idle, generation=now_ms())
            self._wanted[model.name] = wanted
            self._families[spec.digest] = spec.family
        self.link.deploy(list(self._wanted.values()))

    def is_of_family(self, engine: Engine, family: str) -> bool:
        """True if an engine runs what a spec of this family says. If nobody tells, it does: what
        another gateway asked for is what holds."""
        return (engine.family or self._families.get(engine.digest, family)) == family

    @property
    def unreachable(self) -> bool:
        """True if it was tried to reach the manager, in vain."""
        return self._heard and not self.link.connected

    def status_of(self, model: str) -> ModelStatus | None:
        """What the manager says of a model; None: nothing yet."""
        self._sort()
        return self._statuses.get(model)

    def engines_of(self, model: str) -> Sequence[Engine]:
        """The engines that start, run or leave, as the latest view has them."""
        self._sort()
        return self._engines.get(model, ())

    def _sort(self) -> None:
        """Sort the latest view by models, once: each of many models looks for its own engines."""
        view = self.link.view
        if view is None or view is self._sorted:
            return
        self._sorted = view
        self._statuses = {status.model: status for status in view.models}
        self._engines = {}
        for engine in view.engines:
            self._engines.setdefault(engine.model, []).append(engine)

    # Deployments -----------------------------------------------------------------------------

    def join(self, deployment: Participant) -> None:
        """Keep a deployment's pool as the cluster is, until it leaves."""
        self._deployments.add(deployment)
        self._stale = True
        self._wake.set()

    def leave(self, deployment: Participant) -> None:
        self._deployments.discard(deployment)

    @property
    def running(self) -> dict[str, int]:
        """The requests of this gateway that run on each engine, by its ``uid``."""
        running: dict[str, int] = {}
        for deployment in self._deployments:
            for uid, count in deployment.running().items():
                running[uid] = running.get(uid, 0) + count
        return running

    def _link_changed(self) -> None:
        self._heard = True
        self._wake.set()

    def demand_changed(self, *, urgent: bool) -> None:
        """Report soon: a request waits (``urgent``), or the first one runs."""
        if urgent or not self._busy:
            self._urgent = self._urgent or urgent
            self._busy = True
            self._wake.set()

    # The loop --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._note_connection()
            view = self.link.view
            if view is not None and (self._stale or view is not self._heeded):
                await self._heed(view)
            self._share()
            self._tell_differences()
            now = time.monotonic()
            if now >= self._due:
                self._report(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._due - now)):
                    await self._wake.wait()

    @property
    def _due(self) -> float:
        """When the next report is."""
        interval = BUSY_INTERVAL if self._busy else IDLE_INTERVAL
        return self._reported_at + (_MIN_INTERVAL if self._urgent else interval)

    async def _heed(self, view: View) -> None:
        """Put a view in force."""
        self._stale = False
        for deployment in tuple(self._deployments):
            if deployment in self._deployments:  # it may have left while another heeded
                await deployment.heed(view)
        before, self._heeded = self._heeded, view
        leaving = _leaving(view)
        if leaving and (before is None or leaving - _leaving(before)):
            self._urgent = True  # the manager waits for that

    def _share(self) -> None:
        """Put in force what the other gateways do. Nobody tells while the manager is away."""
        now, told = time.monotonic(), self.link.loads
        if told is not self._loads:
            self._loads, self._loads_at = told, now
        known = told is not None and now - self._loads_at < _LOADS_LAST
        for deployment in self._deployments:
            deployment.share(told if known and told is not None else _NO_LOADS)

    def _report(self, now: float) -> None:
        self._reported_at, self._urgent = now, False
        demand: dict[str, Demand] = {}
        for one in self._deployments:
            before = demand.get(one.model.name, Demand(0, 0))
            in_flight, waiting = one.pool.in_flight, one.pool.waiting
            demand[one.model.name] = Demand(before.in_flight + in_flight, before.waiting + waiting)
        self._busy = any(one.in_flight or one.waiting for one in demand.values())
        view = self._heeded
        self.link.report(
            Report(
                self.link.gateway,
                demand,
                self.running,
                incarnation="" if view is None else view.incarnation,
                version=0 if view is None else view.version,
            )
        )

    def _note_connection(self) -> None:
        if self.unreachable != self._was_unreachable:
            self._was_unreachable = self.unreachable
            for deployment in self._deployments:
                deployment.cluster_changed()
        if self.link.connected != self._was_connected:
            self._was_connected = self.link.connected
            self.since = time.time()
            self._urgent = True  # a manager that is new here knows nothing of this gateway

    def _tell_differences(self) -> None:
        """Warn, once, of a model for which another gateway's configuration holds."""
        for status in () if self.link.view is None else self.link.view.models:
            wanted = self._wanted.get(status.model)
            if wanted is None:
                continue
            ours = f"{wanted.spec.digest}, {wanted.least}-{wanted.most} engines"
            theirs = f"{status.digest}, {status.least}-{status.most} engines"
            if ours == theirs:
                self._differs_since.pop(status.model, None)
                continue
            since = self._differs_since.setdefault(status.model, time.monotonic())
            late = time.monotonic() - since >= _DIFFERENCE_AFTER
            if late and (status.model, theirs) not in self._told:
                self._told.add((status.model, theirs))
                logger.warning(
                    "another gateway's configuration of a model holds in the cluster",
                    extra=fields(model=status.model, ours=ours, theirs=theirs),
                )


def _leaving(view: View) -> set[str]:
    return {engine.info.uid for engine in view.engines if engine.leaving}


async def _memory_of(model: ModelSettings) -> int:
    """Bytes that an engine of a model needs, if its file is on this machine; else 0."""
    try:
        path = await run_in_daemon_thread(lambda: find(model.source or ""))
        if path is None:
            return 0
        runner = Runner(model.name, path, model)
        await runner.check()
    except ModelError:  # here, where none of its engines runs
        return 0
    return runner.memory
