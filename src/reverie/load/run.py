"""Runs a load: so many requests at a time, or so many a second, until enough were sent."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from time import perf_counter

from msgspec import Struct

from reverie.load.answers import Outcome
from reverie.load.client import Client
from reverie.load.lag import LoopLag

_MADE_AHEAD = 2_000
"""Bodies that are made before the clock starts: making one while answers come would delay them."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is asked. It ends with ``requests`` or ``seconds``, whichever comes first."""

    concurrency: int | None = None
    """The most requests at a time; without a rate, that many all the time."""
    rate: float | None = None
    """Requests a second, at moments that don't depend on each other (a Poisson process)."""
    requests: int | None = None
    seconds: float | None = None
    """For which requests are sent. Those under way are waited for."""
    stream: bool = True
    seed: int = 0


class Load:
    """One run. Its figures can be read while it lasts."""

    def __init__(self, client: Client, plan: Plan, bodies: Iterator[bytes]) -> None:
        ahead = list(islice(bodies, min(_MADE_AHEAD, plan.requests or _MADE_AHEAD)))
        self._bodies = chain(ahead, bodies)
        self._client = client
        self._plan = plan
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.began = 0.0
        """On the clock of ``time.perf_counter``, as all moments."""
        self.ended = 0.0
        """0 while it lasts."""
        self.sent = 0
        self.outcomes: list[Outcome] = []
        self.lag: array[float] = array("d")
        """Seconds by which this loop was late, each 10 ms."""

    @property
    def under_way(self) -> int:
        """Requests without an outcome. After the end: those that ``stop`` cut."""
        return self.sent - len(self.outcomes)

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or perf_counter()) - self.began

    def stop(self) -> None:
        """End at once. What was answered stays."""
        self._stopping.set()
        for task in self._running:
            task.cancel()

    @property
    def was_stopped(self) -> bool:
        return self._stopping.is_set()

    async def run(self) -> None:
        """Send all requests, and wait for their answers."""
        watch = LoopLag()
        self.lag = watch.delays
        watch.start()
        self.began = perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                if self._plan.rate is None:
                    for _ in range(self._plan.concurrency or 1):
                        self._running.add(group.create_task(self._one_after_another()))
                else:
                    await self._arrive(group, self._plan.rate)
        finally:
            watch.stop()
            self.ended = perf_counter()

    async def _one_after_another(self) -> None:
        while (body := self._next()) is not None:
            self.outcomes.append(await self._client.ask(body, stream=self._plan.stream))

    async def _arrive(self, group: asyncio.TaskGroup, rate: float) -> None:
        """Send each when it is due, however long the others take."""
        gaps = random.Random(self._plan.seed)
        room = asyncio.Semaphore(self._plan.concurrency or 2**31)
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due += gaps.expovariate(rate)
            if due > clock():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._stopping.wait()
            await room.acquire()
            if (body := self._next()) is None:
                return
            task = group.create_task(self._ask(body, room))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _ask(self, body: bytes, room: asyncio.Semaphore) -> None:
        try:
            self.outcomes.append(await self._client.ask(body, stream=self._plan.stream))
        finally:
            room.release()

    def _next(self) -> bytes | None:
        """The body of the next request; None: enough were sent, or the time is over."""
        plan = self._plan
        if self.was_stopped or self.sent == plan.requests:
            return None
        if plan.seconds is not None and perf_counter() >= self.began + plan.seconds:
            return None
        body = next(self._bodies, None)
        if body is not None:
            self.sent += 1
        return body
