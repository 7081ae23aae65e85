"""The engines and the slots that the parent owns, for all its workers.

The parent's registry has the same deployments as each worker's, with the same numbers, and decides
which of them a new configuration keeps. It starts engines, and no connection to other servers.

Rule: while a reload runs, every engine is held. A worker's own hold on one that goes is known once
the worker has told that the new configuration is in force there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from reverie.backends.base import Backend
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.on_demand import OnDemandModel
from reverie.gateway.serving.registry import ModelRegistry
from reverie.runner.supervisor import Runner
from reverie.settings import ModelSettings, Settings
from reverie.workers.messages import EngineState, Holders, Load, Unload, Unloaded
from reverie.workers.shares import Report, Room, Share, Shares

_numbers = itertools.count(1)


class OwnedDeployment(Deployment):
    """A deployment whose engine runs here, and whose other backends workers reach by themselves."""

    number = 0

    async def prepare(self) -> None:
        if self.on_demand is not None:
            await self.on_demand.check()

    @property
    def engine(self) -> tuple[OnDemandModel, Runner] | None:
        """What runs here of it; None: nothing does."""
        for backend in self.pool.backends:
            runner = getattr(backend, "runner", None)
            if self.on_demand is not None and isinstance(runner, Runner):
                return self.on_demand, runner
        return None

    def shares(self) -> list[Shares]:
        """The room of each backend, to be shared out."""
        return [
            Shares((self.number, index), _room(backend))
            for index, backend in enumerate(self.pool.backends)
        ]


class Engines(ModelRegistry):
    """The configuration in force, its engines, and the shares of its backends.

    Args:
        send_share: sends a share to a worker.
        send_state: sends an engine's state to all workers.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        send_share: Callable[[int, Share], None],
        send_state: Callable[[EngineState], None],
    ) -> None:
        self._owned: dict[int, OwnedDeployment] = {}
        self._shares: dict[int, list[Shares]] = {}
        self._workers: set[int] = set()
        self._holders: dict[tuple[int, int], int] = {}
        self._told: dict[int, EngineState] = {}
        self._send_share = send_share
        self._send_state = send_state
        self._held: list[Deployment] = []
        super().__init__(settings, environ)

    def _deploy(
        self, model: ModelSettings, backends: Sequence[Backend], settings: Settings
    ) -> Deployment:
        number = next(_numbers)
        deployment = OwnedDeployment(
            model, backends, settings.server, self._budget, partial(self._engine_changed, number)
        )
        deployment.number = number
        self._owned[number] = deployment
        return deployment

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each model's deployment."""
        return {
            name: deployment.number
            for name, deployment in self._deployments.items()
            if isinstance(deployment, OwnedDeployment)
        }

    async def apply(self, settings: Settings) -> None:
        """As the registry's. Old engines run on until ``release_old``."""
        held = list(self._deployments.values())
        for deployment in held:
            deployment.hold()
        self._held += held
        try:
            await super().apply(settings)
        except BaseException:
            self.release_old()
            raise
        self._share_new()

    def release_old(self) -> None:
        """Let engines stop that no worker uses: all of them serve the new configuration."""
        held, self._held = self._held, []
        for deployment in held:
            deployment.release()
        self._forget_old()

    # Engines --------------------------------------------------------------------------------

    def states(self) -> list[EngineState]:
        """The state of each engine."""
        return [
            state
            for number in self.numbers.values()
            if (state := self._state_of(number)) is not None
        ]

    def hold(self, worker: int, holders: Holders) -> None:
        """Note how many requests of a worker hold an engine."""
        deployment = self._owned.get(holders.number)
        if deployment is None:
            return
        before = self._holders.get((worker, holders.number), 0)
        on_demand = deployment.on_demand
        for _ in range(holders.count - before):
            deployment.hold()
        self._holders[worker, holders.number] = holders.count
        if holders.used and on_demand is not None:
            on_demand.load_for_request()
        for _ in range(before - holders.count):
            deployment.release()
        if not holders.count:
            del self._holders[worker, holders.number]
        self._engine_changed(holders.number)

    def load(self, load: Load) -> None:
        """Begin to load an engine."""
        deployment = self._owned.get(load.number)
        if deployment is not None and deployment.on_demand is not None:
            if load.by_operator:
                deployment.on_demand.load_for_operator()
            else:
                deployment.on_demand.load()
            self._engine_changed(load.number)

    async def unload(self, unload: Unload) -> Unloaded:
        """Unload an engine, unless requests hold it."""
        deployment = self._owned.get(unload.number)
        if deployment is None or deployment.on_demand is None:
            return Unloaded(True, 0)
        done = await deployment.on_demand.unload_if_free(unload.reason)
        self._engine_changed(unload.number)
        return Unloaded(done, deployment.on_demand.holders)

    async def check_alive(self, number: int) -> bool:
        """Probe an engine now, since a request makes no progress there."""
        deployment = self._owned.get(number)
        engine = None if deployment is None else deployment.engine
        return engine is not None and await engine[1].check_alive()

    def _engine_changed(self, number: int) -> None:
        if number not in self._owned:
            return
        state = self._state_of(number)
        if state is not None and state != self._told.get(number):
            self._told[number] = state
            self._send_state(state)
        backends = self._owned[number].pool.backends
        for backend, shares in zip(backends, self._shares.get(number, ()), strict=False):
            self._send(shares.set_total(_room(backend)))

    def _state_of(self, number: int) -> EngineState | None:
        engine = self._owned[number].engine
        if engine is None:
            return None
        on_demand, runner = engine
        seconds = on_demand.seconds_to_ready()
        known = self._told.get(number)
        ready_at = None if seconds is None else time.monotonic() + seconds
        if known is not None and known.ready_at is not None and ready_at is not None:
            ready_at = known.ready_at  # or it would be news whenever it is asked for
        return EngineState(
            number=number,
            state=runner.state,
            socket="" if runner.state in ("stopped", "failed") else str(runner.socket),
            context=runner.context,
            expected_context=runner.expected_context,
            kv_tokens=runner.kv_tokens,
            memory=runner.memory,
            failure=runner.failure,
            is_cold=on_demand.is_cold,
            in_memory=on_demand.in_memory,
            loading_on_request=on_demand.loading_on_request,
            load_failure=on_demand.load_failure,
            not_ready_reason=on_demand.not_ready_reason(),
            ready_at=ready_at,
        )

    # Slots ----------------------------------------------------------------------------------

    def share_with(self, worker: int) -> None:
        """Share all slots with one more worker, too."""
        self._share_new()
        self._workers.add(worker)
        for number in self.numbers.values():
            for shares in self._shares[number]:
                self._send(shares.join(worker))

    def report(self, worker: int, report: Report) -> None:
        """Take a worker's report on a backend."""
        if report.deployment in self._shares:
            self._send(self._shares[report.deployment][report.backend].report(worker, report))

    def left(self, worker: int, number: int) -> None:
        """Note that nothing of a deployment runs in a worker any more."""
        self._forget_holders(worker, number)
        for shares in self._shares.get(number, ()):
            self._send(shares.leave(worker))
        self._forget_old()

    def leave(self, worker: int) -> None:
        """Take back all that a worker had, which has ended."""
        self._workers.discard(worker)
        for each in self._shares.values():
            for shares in each:
                self._send(shares.leave(worker))
        for number in [number for who, number in self._holders if who == worker]:
            self._forget_holders(worker, number)
        self._forget_old()

    def _forget_holders(self, worker: int, number: int) -> None:
        """Take back what a worker held of an engine."""
        if (worker, number) in self._holders:
            self.hold(worker, Holders(number, 0, False))

    def _share_new(self) -> None:
        """Share out the backends of deployments that have come."""
        for number in self.numbers.values():
            if number not in self._shares:
                self._shares[number] = self._owned[number].shares()
                for shares in self._shares[number]:
                    for worker in self._workers:
                        self._send(shares.join(worker))

    def _forget_old(self) -> None:
        """Forget the deployments that have gone, once nothing of them runs in a worker."""
        kept = set(self.numbers.values())
        for number in [number for number in self._owned if number not in kept]:
            if not any(shares.in_use for shares in self._shares.get(number, ())):
                del self._owned[number]
                self._shares.pop(number, None)
                self._told.pop(number, None)

    def _send(self, shares: dict[int, Share]) -> None:
        for worker, share in shares.items():
            self._send_share(worker, share)


def _room(backend: Backend) -> Room:
    return Room(backend.slots, backend.capacity or 0)
