"""A model that runs in a cluster: its pool has the engines that the cluster has of it.

Rule: an engine that has ended is asked once more. If it answers, it is the manager that can't reach
it, and its requests run on. If not, its connections are closed, so that they go on elsewhere at
once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial

from reverie import background
from reverie.backends.member import MemberBackend
from reverie.cluster.messages import Engine, EngineSpec, Loads, View
from reverie.errors import ModelError
from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.serving.cluster import Cluster
from reverie.gateway.serving.deployment import Deployment, UnreadyState
from reverie.gateway.serving.membership import Known, changes
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.log import fields
from reverie.settings import ModelSettings, ServerSettings

logger = logging.getLogger("reverie.cluster")


class _Member:
    """An engine that the pool has, or had and that still has requests."""

    def __init__(self, engine: Engine, incarnation: str, backend: MemberBackend) -> None:
        self.engine = engine
        self.incarnation = incarnation
        self.backend = backend
        self.state: BackendState
        self.doubted_at: float | None = None
        """When it was missing from another manager's view, in ``time.time()`` seconds."""
        self.removed = False

    @property
    def uid(self) -> str:
        return self.engine.info.uid

    @property
    def failed_when_doubted(self) -> bool:
        """True if it is doubted, and a probe has failed since."""
        health = self.backend.health
        if self.doubted_at is None or health is None or not self.state.down:
            return False
        return health.checked_at >= self.doubted_at


class ClusterDeployment(Deployment):
    """A pool whose backends are a cluster's engines.

    Args:
        cluster: tells which there are, once this has joined it (``prepare``).
    """

    def __init__(
        self,
        model: ModelSettings,
        server: ServerSettings,
        budget: MemoryBudget,
        cluster: Cluster,
        on_change: Callable[[], None],
    ) -> None:
        self._server = server
        self._cluster = cluster
        self._family = EngineSpec.of(model).family
        self._members: dict[str, _Member] = {}
        self._removed: set[_Member] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self._unusable: set[str] = set()
        self._waits = False
        self._wait_began: float | None = None
        example = self._backend(model, "example", "http://engine/v1", "none")
        super().__init__(model, (), server, budget, on_change, examples=[example])
        self.pool.on_change = self._demand_changed
        self.pool.seconds_to_ready = self._seconds_to_ready
        self.pool.not_ready_reason = lambda: self._why()[0]

    def _backend(self, model: ModelSettings, name: str, url: str, key: str) -> MemberBackend:
        return MemberBackend(
            name,
            model,
            url=url,
            key=key,
            first_token_timeout=self._server.first_token_timeout,
            stall_timeout=self._server.stall_timeout,
            tls=self._cluster.tls,
        )

    def can_serve(self, model: ModelSettings) -> bool:
        """True if its engines run the same model. How they run it, the cluster changes by itself,
        one engine after the other."""
        return bool(model.engines) and EngineSpec.of(model).family == self._family

    def update(self, model: ModelSettings, server: ServerSettings) -> None:
        self._server = server
        super().update(model, server)

    async def prepare(self) -> None:
        self._cluster.join(self)

    # Its engines -----------------------------------------------------------------------------

    async def heed(self, view: View) -> None:
        """Change the pool as a view says."""
        with self.pool.changing():
            await self._heed(view)
        self.cluster_changed()

    async def _heed(self, view: View) -> None:
        known = {name: Known(one.engine, one.incarnation) for name, one in self._members.items()}
        engines = self._cluster.engines_of(self.model.name)
        self._unusable &= {engine.info.uid for engine in engines}
        found = changes(known, engines, view, self._serves)
        for name in found.gone:
            self._remove(self._members[name])
        for name in found.doubtful:
            member = self._members[name]
            if member.doubted_at is None:
                member.doubted_at = time.time()
                member.backend.probe_soon()
        for engine in found.stayed:
            member = self._members[engine.name]
            member.incarnation, member.doubted_at = view.incarnation, None
            self._note(member, engine, view)
        for engine in found.joined:
            await self._add(engine, view)

    def _serves(self, engine: Engine) -> bool:
        unusable = engine.info.uid in self._unusable
        return not unusable and self._cluster.is_of_family(engine, self._family)

    async def _add(self, engine: Engine, view: View) -> None:
        info = engine.info
        try:
            if self._cluster.demands_tls and not info.url.startswith("https://"):
                raise ModelError("it doesn't speak TLS, which cluster.tls_ca asks for")
            backend = self._backend(self.model, engine.name, info.url, info.key)
            member = _Member(engine, view.incarnation, backend)
            await backend.start(partial(self._member_changed, member))
        except (ModelError, ValueError) as error:
            self._unusable.add(info.uid)
            reason = str(error) if isinstance(error, ModelError) else "its address can't be used"
            logger.error(
                "an engine can't be used",
                extra=fields(model=engine.model, engine=engine.name, reason=reason),
            )
            return
        self._size(member, engine, view)
        self._members[engine.name] = member
        member.state = self.pool.add(backend, machine=engine.machine)
        logger.info(
            "engine joined",
            extra=fields(model=engine.model, engine=engine.name, machine=engine.machine),
        )

    def _note(self, member: _Member, engine: Engine, view: View) -> None:
        """Note what a view says of a member."""
        member.engine = engine if engine.info.url else member.engine
        self._size(member, engine, view)
        self.pool.set_leaving(engine.name, engine.leaving)

    def _size(self, member: _Member, engine: Engine, view: View) -> None:
        info = engine.info
        member.backend.resize(
            slots=info.slots,
            context=info.context,
            kv_tokens=info.kv_tokens,
            gateways=view.gateways,
        )
        self.pool.backend_changed(member.backend)

    def _remove(self, member: _Member) -> None:
        name = member.engine.name
        del self._members[name]
        member.removed = True
        self._removed.add(member)
        member.backend.probe_soon()
        logger.info("engine left", extra=fields(model=self.model.name, engine=name))
        self.pool.remove(name, partial(self._end, member))

    def _end(self, member: _Member) -> None:
        """Close what is open to an engine that was removed."""
        if member in self._removed:
            self._removed.discard(member)
            stop = background.once("backend stop", member.backend.stop)
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)

    def _member_changed(self, member: _Member) -> None:
        """Judge a member by its latest probe."""
        self._probed(member.backend)
        if member.removed:
            self._judge_removed(member)
        elif member.failed_when_doubted:
            self._remove(member)
            self.cluster_changed()

    def _judge_removed(self, member: _Member) -> None:
        member.state.apply_probe()
        health = member.backend.health
        if member.state.down:
            self._end(member)
        elif health is not None and not health.ok:
            member.backend.probe_soon()

    def running(self) -> dict[str, int]:
        """The requests that run on each engine, by its ``uid``."""
        every = [*self._members.values(), *self._removed]
        return {one.uid: one.state.in_flight for one in every if one.state.in_flight}

    def share(self, loads: Loads) -> None:
        """Leave to the other gateways what they use."""
        gateways = 1 + loads.gateways.get(self.model.name, 0)
        changed = False
        for member in self._members.values():
            state, elsewhere = member.state, loads.running.get(member.uid, 0)
            changed = changed or (state.elsewhere, state.gateways) != (elsewhere, gateways)
            state.elsewhere, state.gateways = elsewhere, gateways
        if changed:
            self.pool.wake()

    async def stop(self) -> None:
        self._cluster.leave(self)
        every = [*self._members.values(), *self._removed]
        await asyncio.gather(
            *(member.backend.stop() for member in every), *self._stops, return_exceptions=True
        )
        self._removed.clear()

    # How it stands ---------------------------------------------------------------------------

    def _demand_changed(self) -> None:
        waits = self.pool.waiting > 0
        begins = waits and not self._waits
        self._waits = waits
        if begins:
            self._note_wait()
        if begins or self.pool.in_flight:  # what others do is no demand
            self._cluster.demand_changed(urgent=begins)

    def cluster_changed(self) -> None:
        """Note that the cluster's view, or the connection to it, has changed."""
        self._note_wait()
        self._on_change()

    def _note_wait(self) -> None:
        """Note since when an engine is asked for."""
        if self.pool.ready or not (self._waits or self._starting):
            self._wait_began = None
        elif self._wait_began is None:
            self._wait_began = time.monotonic()

    @property
    def _starting(self) -> bool:
        engines = self._cluster.engines_of(self.model.name)
        return any(engine.info.state != "failed" for engine in engines)

    @property
    def _failed(self) -> list[Engine]:
        """The engines that have failed, if no other runs or starts."""
        engines = self._cluster.engines_of(self.model.name)
        return [] if self._members or self._starting else list(engines)

    @property
    def unready_state(self) -> UnreadyState:
        if not self._members and self._cluster.unreachable:
            return "down"
        if self._failed:
            return "failed"
        is_cold = self.loading_on_request and not (self._starting or self.pool.waiting)
        return "cold" if is_cold and self._cluster.link.view is not None else "loading"

    @property
    def loading_on_request(self) -> bool:
        return self.model.engine_bounds is not None and self.model.engine_bounds[0] == 0

    @property
    def operator_reason(self) -> str:
        return self._why()[1]

    def _why(self) -> tuple[str, str]:
        """Why no engine can be asked, as the beginning of a sentence: for clients, and with what
        its operator may know besides."""
        link, status = self._cluster.link, self._cluster.status_of(self.model.name)
        detail = ""
        if not link.connected:
            client = "The cluster that runs the model can't be reached"
            detail = link.why
        elif self._failed:
            client = "The model's engines fail to start"
            detail = self._failed[0].info.why
        elif status is not None and status.why and not self._starting:
            client = "The cluster can't start an engine of the model at the moment"
            detail = status.why
        elif self._members:
            client = "The model's engines are being replaced"
        elif self._starting:
            client = "The model is still loading"
        else:
            client = "The model's first engine is being started"
        detail = detail.rstrip(".")
        return client, f"{client}: {detail}" if detail else client

    def _seconds_to_ready(self) -> float | None:
        status = self._cluster.status_of(self.model.name)
        expected = None if status is None else status.seconds_to_ready
        if expected is None or not self._cluster.link.connected:
            return None
        if self._wait_began is not None:
            elapsed = time.monotonic() - self._wait_began
            # A start that is late is expected to take half as long again.
            expected = max(expected - elapsed, elapsed / 2)
        return float(math.ceil(expected))
