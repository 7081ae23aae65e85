"""A cluster for the simulation: engines that only take their time, and gateways before them.

The scheduler is the real one: each gateway has a ``Pool`` of all engines, and does with its leases
what the relay does. What a request takes is arithmetic: tokens that are read and written, at paces.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

from reverie.backends.base import Health, Take
from reverie.cluster.demand import Gateways
from reverie.cluster.messages import Demand, Report
from reverie.errors import ConnectionLost, Overloaded
from reverie.gateway.scheduling.lease import Lease, SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.request import GenerateRequest
from reverie.tasks import R, TaskRequest

READS = 4000.0
"""Tokens of a prompt that an engine reads in a second."""
WRITES = 40.0
"""Tokens of each answer that it writes in a second."""
KEEPS = 64
"""Conversations of which an engine keeps what it has read, beside those that run."""
URGENT = 0.1
"""Seconds between two reports of a gateway at least, where a request waits."""
HOP = 0.01
"""Seconds that a report takes to the manager, and its answer back."""
NOTICED = 0.1
"""Seconds until gateways know that an engine has died, or that there is one more."""
_OUTPUT_EVERY = 1.0
"""Seconds between two looks at which engines give anything."""

T = TypeVar("T")


class Turn(NamedTuple):
    """One request of a conversation."""

    conversation: str
    number: int
    key: str
    weight: int
    affinity: bytes | None
    prompt: int
    """Tokens, those of the turns before included."""
    answer: int
    reserved: int
    """What it may come to, as far as the gateway knows."""


class Engine:
    """Runs ``slots`` requests at once; others wait for their turn in its own queue."""

    kind = "generic"
    url = ""
    recovers = False
    can_continue = True
    can_count = False
    capacity: int | None = None
    context: int | None = None
    failure: str | None = None
    health: Health | None = None
    checked_by: Hashable = "generic"

    def __init__(self, name: str, slots: int, *, ready: bool = True, weight: float = 1.0) -> None:
        self.name = name
        self.slots = slots
        self.weight = weight
        self.ready = ready
        self.alive = ready
        self.life = 0
        """How often it has started: what it kept is gone each time."""
        self.running = 0
        self.most_running = 0
        self.most_queued = 0
        self.busy = 0.0
        """Seconds of its slots that were used."""
        self._queue: deque[asyncio.Future[None]] = deque()
        self._under_way: set[asyncio.Future[None]] = set()
        self._kept: OrderedDict[str, int] = OrderedDict()

    def start_again(self) -> None:
        self.alive = True
        self.life += 1
        self._kept.clear()

    def die(self) -> None:
        """All that runs and waits there breaks off."""
        self.alive = False
        for future in (*self._under_way, *self._queue):
            if not future.done():
                future.set_exception(ConnectionLost("It died."))

    async def slot(self) -> None:
        """Wait for one of its slots.

        Raises:
            ConnectionLost: it has died.
        """
        if not self.alive:
            raise ConnectionLost("Nobody listens there.")
        if self.running >= self.slots:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            self.most_queued = max(self.most_queued, len(self._queue))
            await turn  # whoever leaves hands the slot on
            return
        self._take()

    def _take(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)

    def leave(self) -> None:
        self.running -= 1
        while self._queue and self.running < self.slots:
            turn = self._queue.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)

    def unread(self, turn: Turn) -> int:
        """Tokens of a prompt that it hasn't kept."""
        return turn.prompt - min(self._kept.get(turn.conversation, 0), turn.prompt)

    def keep(self, turn: Turn) -> None:
        self._kept[turn.conversation] = turn.prompt + turn.answer
        self._kept.move_to_end(turn.conversation)
        if len(self._kept) > KEEPS:
            self._kept.popitem(last=False)

    async def work(self, seconds: float) -> None:
        """Read or write for so long.

        Raises:
            ConnectionLost: it died meanwhile.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        timer = loop.call_later(seconds, done.set_result, None)
        self._under_way.add(done)
        began = loop.time()
        try:
            await done
        finally:
            timer.cancel()
            self._under_way.discard(done)
            self.busy += loop.time() - began

    # The rest of what a backend is, for which the simulation has no use ----------------------

    def check(self, request: GenerateRequest) -> None: ...

    def can_run(self, request: TaskRequest[Any]) -> bool:
        return False

    async def run(self, request: TaskRequest[R]) -> R:
        raise NotImplementedError

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        return None

    async def generate(self, request: GenerateRequest, take: Take) -> None:
        raise NotImplementedError

    def set_timeouts(self, *, first_token: float, stall: float) -> None: ...

    def probe_soon(self) -> None: ...

    async def start(self, on_change: Callable[[], None]) -> None: ...

    async def stop(self) -> None: ...


class Served(NamedTuple):
    """What became of one turn. Times in seconds."""

    turn: Turn
    queued: float
    """How long it waited for a slot, in gateways and engines."""
    first_token: float
    engine: Engine
    life: int
    failovers: int
    refused: int
    """How often it was refused before, and came again."""
    ended: float


class Gateway:
    """One gateway: a pool of its own, over engines that it may share with others.

    Args:
        fair: False serves whoever came first, whatever their keys.
    """

    def __init__(
        self, engines: Sequence[Engine], *, queue_size: int, queue_timeout: float, fair: bool = True
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pool = Pool(
            "m",
            [],
            queue_size=queue_size,
            queue_timeout=queue_timeout,
            clock=loop.time,
            examples=engines[:1],
        )
        for engine in engines:
            self.pool.add(engine)
        self._fair = fair
        self._waits = asyncio.Event()
        self.decisions = 0
        self.spent = 0
        """Nanoseconds of CPU that the scheduler took for them."""

    def limit(self, slots: int) -> None:
        """Use no more slots of each engine than these."""
        for state in self.pool.states:
            state.share = slots, 0

    async def share(self, name: str, manager: Gateways, interval: float) -> None:
        """Tell the manager what runs here, and heed what it tells of others, for ever."""
        loop = asyncio.get_running_loop()
        pool = self.pool
        waited = False

        def changed() -> None:
            nonlocal waited
            if pool.waiting and not waited:
                self._waits.set()
            waited = pool.waiting > 0

        pool.on_change = changed
        await asyncio.sleep(random.uniform(0, interval))
        while True:
            self._waits.clear()
            report = Report(
                name,
                {pool.model: Demand(pool.in_flight, pool.waiting)},
                {state.name: state.in_flight for state in pool.states if state.in_flight},
            )
            await asyncio.sleep(HOP)
            manager.report(report, loop.time())
            loads = manager.others(name, loop.time())
            await asyncio.sleep(HOP)
            for state in pool.states:
                state.elsewhere = loads.running.get(state.name, 0)
                state.gateways = 1 + loads.gateways.get(pool.model, 0)
            pool.wake()
            await asyncio.sleep(URGENT - 2 * HOP)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval - URGENT):
                    await self._waits.wait()

    def note_output(self) -> None:
        """Note that engines which work give something now and then."""
        for state in self.pool.states:
            if state.in_flight and state.backend.ready:
                state.on_output()

    async def ask(self, turn: Turn) -> Served:
        """Serve a turn, whatever it takes: those who are refused come again when they were told."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        slot_request = SlotRequest(turn.reserved, affinity=turn.affinity)
        if self._fair:
            slot_request = slot_request._replace(key=turn.key, weight=turn.weight)
        queued = first_token = 0.0
        written = failovers = refused = 0
        while True:
            waits_from = loop.time()
            try:
                lease = await _Timed(self, self.pool.acquire(slot_request))
            except Overloaded as error:
                queued += loop.time() - waits_from
                refused += 1
                await asyncio.sleep((error.retry_after or 1.0) * random.uniform(1, 1.5))
                continue
            engine = lease.backend
            assert isinstance(engine, Engine)
            has_slot = False
            try:
                await engine.slot()
                has_slot = True
                queued += loop.time() - waits_from
                await engine.work((engine.unread(turn) + written) / READS + 1 / WRITES)
                first_token = first_token or loop.time()
                lease.on_batch()
                begins = loop.time()
                try:
                    await engine.work((turn.answer - written) / WRITES)
                except ConnectionLost:
                    written += int((loop.time() - begins) * WRITES)
                    raise
                lease.succeeded(turn.answer - written)
            except ConnectionLost as error:
                failovers += 1
                lease.failed(error)
                slot_request = slot_request._replace(
                    failed_on=frozenset({engine.name}), resuming=first_token > 0
                )
                continue
            finally:
                if has_slot:
                    engine.leave()
                self._release(lease)
            engine.keep(turn)
            return Served(
                turn=turn,
                queued=queued,
                first_token=first_token - asked_at,
                engine=engine,
                life=engine.life,
                failovers=failovers,
                refused=refused,
                ended=loop.time(),
            )

    def _release(self, lease: Lease) -> None:
        began = time.thread_time_ns()
        lease.release()
        self.spent += time.thread_time_ns() - began


class _Timed(Awaitable[T]):
    """Awaits something, and counts the CPU time of its steps as a gateway's."""

    def __init__(self, gateway: Gateway, waits: Coroutine[Any, Any, T]) -> None:
        self._gateway = gateway
        self._steps = waits.__await__()

    def __await__(self) -> Generator[Any, None, T]:
        self._gateway.decisions += 1
        step: Callable[[], Any] = self._steps.__next__
        while True:
            began = time.thread_time_ns()
            try:
                awaited = step()
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._gateway.spent += time.thread_time_ns() - began
            try:
                yield awaited
                step = self._steps.__next__
            except BaseException as error:
                thrown = error
                step = lambda: self._steps.throw(thrown)  # noqa: B023, E731


class Cluster:
    """Engines and the gateways that share them.

    Args:
        shared_out: each gateway uses its part of the slots alone.
        told_every: seconds after which each gateway is told what the others run; None: never.
        spare: engines that run only once they are started.
    """

    def __init__(
        self,
        engines: int,
        slots: int,
        *,
        gateways: int = 1,
        shared_out: bool = False,
        told_every: float | None = None,
        spare: int = 0,
        queue_size: int,
        queue_timeout: float = 60.0,
        fair: bool = True,
    ) -> None:
        self.engines = [
            Engine(f"m/{number}", slots, ready=number < engines)
            for number in range(engines + spare)
        ]
        self.slots = slots
        self.gateways = [
            Gateway(
                self.engines[:engines],
                queue_size=max(1, queue_size // gateways),
                queue_timeout=queue_timeout,
                fair=fair,
            )
            for _ in range(gateways)
        ]
        if shared_out:
            for gateway in self.gateways:
                gateway.limit(max(1, slots // gateways))
        manager = Gateways()
        self.sharing = [
            asyncio.create_task(gateway.share(str(number), manager, told_every))
            for number, gateway in enumerate(self.gateways)
            if told_every is not None
        ]

    async def note_output(self) -> None:
        while True:
            await asyncio.sleep(_OUTPUT_EVERY)
            for gateway in self.gateways:
                gateway.note_output()

    async def kill(self, engines: Sequence[Engine]) -> None:
        """Engines die at once; gateways notice a little later."""
        for engine in engines:
            engine.die()
        await asyncio.sleep(NOTICED)
        self._tell(engines, ready=False)

    async def start(self, engines: Sequence[Engine]) -> None:
        for engine in engines:
            engine.start_again()
        await asyncio.sleep(NOTICED)
        self._tell(engines, ready=True)

    def _tell(self, engines: Sequence[Engine], *, ready: bool) -> None:
        for engine in engines:
            engine.ready = ready
            for gateway in self.gateways:
                if ready:
                    gateway.pool.add(engine)
                else:
                    gateway.pool.remove(engine.name, lambda: None)
