"""A worker's view of what its parent owns: engines, and the deployments that use them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from reverie import background
from reverie.backends.base import Backend
from reverie.backends.embedded import EmbeddedBackend
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.gateway.serving.on_demand import OnDemandModel
from reverie.gateway.serving.registry import ModelRegistry
from reverie.runner.supervisor import State
from reverie.settings import ModelSettings, Settings
from reverie.workers.channel import Channel, ChannelClosed
from reverie.workers.messages import (
    Configuration,
    Draining,
    EngineState,
    Holders,
    Load,
    Unload,
    Unloaded,
    decode,
    encode,
)
from reverie.workers.shares import Share
from reverie.workers.slots import PoolShares

_CHECK_TIMEOUT = 10.0
"""Seconds for the parent to ask an engine, which has five, whether it is alive."""
_UNKNOWN = EngineState(
    number=0,
    state="stopped",
    socket="",
    context=None,
    expected_context=0,
    kv_tokens=0,
    memory=0,
    failure=None,
    is_cold=True,
    in_memory=False,
    loading_on_request=False,
    load_failure=None,
    not_ready_reason="The model is still loading",
    ready_at=None,
)


class RemoteRunner:
    """An engine that the parent supervises, as the parent last told of it."""

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.latest = _UNKNOWN
        self.memory = 0
        self.context: int | None = None
        self.expected_context = 0
        self.kv_tokens = 0
        self.failure: str | None = None
        self._channel = channel
        self._change = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self.reconnect: Callable[[], Awaitable[None]] | None = None
        """Called when the engine has another socket; it is ready once this is done."""
        self._connected = ""
        self._connecting: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        if self.latest.state == "ready" and self._connected != self.latest.socket:
            return "loading"
        return cast(State, self.latest.state)

    @property
    def socket(self) -> Path:
        return Path(self.latest.socket)

    def apply(self, latest: EngineState) -> None:
        """Take what the parent tells."""
        self.latest = latest
        self.memory, self.failure = latest.memory, latest.failure
        self.context, self.expected_context = latest.context, latest.expected_context
        self.kv_tokens = latest.kv_tokens
        if latest.socket not in ("", self._connected) and self._connecting is None:
            self._connecting = background.once("engine socket", self._connect)
        self._changed()

    async def _connect(self) -> None:
        try:
            while self.latest.socket not in ("", self._connected) and self.reconnect is not None:
                socket = self.latest.socket
                await self.reconnect()
                self._connected = socket
        finally:
            self._connecting = None
        self._changed()

    def _changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()
        self._on_change()

    async def check(self) -> None:
        """Does nothing: the parent has checked it."""

    async def start(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` from now on. The engine starts when the parent says so."""
        self._on_change = on_change
        self._connected = self.latest.socket  # as who uses it is about to

    async def changed(self) -> None:
        await self._change.wait()

    async def check_alive(self) -> bool:
        try:
            asked = encode(self.number)
            answer = await self._channel.ask("check_alive", asked, timeout=_CHECK_TIMEOUT)
        except (ChannelClosed, TimeoutError):
            return False
        return answer == encode(True)

    def forget_failure(self) -> None:
        """Does nothing: the parent knows when to try again."""

    async def stop(self) -> None:
        self._on_change = lambda: None


class RemoteOnDemand(OnDemandModel):
    """A model whose engine the parent loads and unloads, for all workers alike."""

    def __init__(
        self,
        model: ModelSettings,
        backend: EmbeddedBackend,
        runner: RemoteRunner,
        budget: MemoryBudget,
        channel: Channel,
        on_change: Callable[[], None],
    ) -> None:
        self._runner = runner
        self._channel = channel
        self._telling = False
        self._used = False
        super().__init__(model.name, backend, budget, idle_unload=0, on_change=on_change)

    @property
    def is_cold(self) -> bool:
        return self._runner.latest.is_cold

    async def check(self) -> None:
        await self._backend.start(self._apply)
        self._apply()

    def _apply(self) -> None:
        latest = self._runner.latest
        self.in_memory = latest.in_memory
        self.loading_on_request = latest.loading_on_request
        self.load_failure = latest.load_failure
        self._on_change()

    def hold(self) -> None:
        self._holders += 1
        self._tell_soon()

    def release(self) -> None:
        self._holders -= 1
        if self._used_since_idle:
            self.last_used = time.monotonic()
            self._used_since_idle = self.in_use
        self._tell_soon()

    def load_for_request(self) -> None:
        self.last_used = time.monotonic()
        if not self._used_since_idle or not self._backend.ready:
            self._used_since_idle = self._used = True
            self._tell_soon()

    def set_idle_unload(self, seconds: float) -> None:
        """Does nothing: the parent watches for idle engines."""

    async def start(self) -> None:
        """Does nothing: the parent starts what is to be warm."""

    def load(self, *, on_request: bool = True) -> None:
        if on_request:
            self._channel.tell("load", encode(Load(self._runner.number, False)))

    def load_for_operator(self) -> None:
        self._channel.tell("load", encode(Load(self._runner.number, True)))

    async def unload_if_free(self, reason: str) -> bool:
        if self.in_use:
            return False
        self._tell()
        asked = encode(Unload(self._runner.number, reason))
        answer = decode(await self._channel.ask("unload", asked), Unloaded)
        self.held_elsewhere = answer.holders
        return answer.done

    async def stop(self) -> None:
        await self._backend.stop()
        self._budget.remove(self)

    def not_ready_reason(self) -> str:
        return self._runner.latest.not_ready_reason

    def seconds_to_ready(self) -> float | None:
        ready_at = self._runner.latest.ready_at
        if self._backend.ready or ready_at is None:
            return None
        return float(max(1, math.ceil(ready_at - time.monotonic())))

    def _tell_soon(self) -> None:
        """Tell who holds it, once a turn of the event loop."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        holders = Holders(self._runner.number, self._holders, self._used)
        self._used = False
        self._channel.tell("holders", encode(holders))


class SharedDeployment(Deployment):
    """A deployment of which the parent and each worker have the same, under one number."""

    def __init__(
        self,
        registry: WorkerRegistry,
        number: int,
        model: ModelSettings,
        backends: Sequence[Backend],
        settings: Settings,
        budget: MemoryBudget,
        on_change: Callable[[], None],
    ) -> None:
        self.number = number
        self._registry = registry
        super().__init__(model, backends, settings.server, budget, on_change)
        self.shares = PoolShares(number, self.pool, registry.report)

    def _make_on_demand(self, backend: EmbeddedBackend, budget: MemoryBudget) -> OnDemandModel:
        runner = cast(RemoteRunner, backend.runner)
        return RemoteOnDemand(
            self.model, backend, runner, budget, self._registry.channel, self._backend_changed
        )

    def can_serve(self, model: ModelSettings) -> bool:
        """As the parent has decided."""
        return self._registry.numbers.get(model.name) == self.number

    async def stop(self) -> None:
        await super().stop()
        self._registry.channel.tell("left", encode(self.number))


class WorkerRegistry(ModelRegistry):
    """The models that a worker serves, over the engines and the slots of its parent."""

    def __init__(
        self, configuration: Configuration, environ: Mapping[str, str], channel: Channel
    ) -> None:
        self.channel = channel
        self.numbers = configuration.numbers
        self._runners: dict[int, RemoteRunner] = {}
        self._shared: dict[int, SharedDeployment] = {}
        self._early: dict[int, list[Share]] = {}
        self._states = {state.number: state for state in configuration.engines}
        super().__init__(configuration.read_settings(), environ)
        self._drain_all(configuration)

    def _build(self, model: ModelSettings, settings: Settings) -> Sequence[Backend]:
        if model.source is None:
            return super()._build(model, settings)
        number = self.numbers[model.name]
        runner = self._runners[number] = RemoteRunner(number, self.channel)
        backend = EmbeddedBackend(
            model,
            Path(model.source),
            first_token_timeout=settings.server.first_token_timeout,
            stall_timeout=settings.server.stall_timeout,
            runner=runner,
        )
        runner.reconnect = backend.reconnect
        return [backend]

    def _deploy(
        self, model: ModelSettings, backends: Sequence[Backend], settings: Settings
    ) -> Deployment:
        number = self.numbers[model.name]
        deployment = SharedDeployment(
            self, number, model, backends, settings, self._budget, self._changed.set
        )
        self._shared[number] = deployment
        if (state := self._states.get(number)) is not None:
            self._runners[number].apply(state)
        for share in self._early.pop(number, []):
            deployment.shares.apply(share)
        return deployment

    async def apply_configuration(self, configuration: Configuration) -> None:
        """Serve what the parent says from now on."""
        self.numbers = configuration.numbers
        self._states.update({state.number: state for state in configuration.engines})
        await self.apply(configuration.read_settings())
        self._drain_all(configuration)
        kept = {*self.numbers.values(), *(one.number for one in self._still_draining)}
        self._early = {n: shares for n, shares in self._early.items() if n in kept}
        self._shared = {n: one for n, one in self._shared.items() if n in kept}
        self._runners = {n: one for n, one in self._runners.items() if n in kept}
        self._states = {n: one for n, one in self._states.items() if n in kept}

    @property
    def _still_draining(self) -> list[SharedDeployment]:
        return [one for one in self._draining if isinstance(one, SharedDeployment)]

    def _drain_all(self, configuration: Configuration) -> None:
        for number, backend in configuration.draining:
            if number in self._shared:
                self._shared[number].pool.set_draining(backend, True)

    def set_draining(self, told: Draining) -> None:
        """Keep requests from a backend, or send them there again."""
        deployment = self._deployments.get(told.model)
        if deployment is not None:
            deployment.pool.set_draining(told.backend, told.draining)

    def report(self, report: object) -> None:
        self.channel.tell("report", encode(report))

    def on_state(self, body: bytes) -> None:
        """Take an engine's state, as the parent tells it."""
        state = decode(body, EngineState)
        self._states[state.number] = state
        if (runner := self._runners.get(state.number)) is not None:
            runner.apply(state)

    def on_share(self, body: bytes) -> None:
        """Take a share, as the parent tells it."""
        share = decode(body, Share)
        if (deployment := self._shared.get(share.deployment)) is not None:
            deployment.shares.apply(share)
        else:  # of a configuration that is about to come
            self._early.setdefault(share.deployment, []).append(share)
