"""Clients for the simulation: chats of several turns, with pauses, under keys that have weights.

Lengths are drawn from log-normal distributions, so that a few prompts and answers are far longer
than most, as people's are. A client's numbers depend on the seed and on nothing that is simulated:
each way to schedule is asked the same.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from simulated_cluster import READS, WRITES, Cluster, Served, Turn

from reverie.gateway.scheduling.routing import affinity_of
from reverie.request import GenerateRequest

THINKS = 30.0
"""Seconds that a client reads and writes between two turns, on average."""
_GOES_ON = 0.75
"""How likely a turn is followed by another."""
_FIRST_PROMPT, _MESSAGE, _ANSWER = 300, 40, 180
"""Medians, in tokens."""
_SPREAD = 1.0
_LONGEST_PROMPT, _LONGEST_ANSWER = 16_384, 4096
_MEAN = math.exp(_SPREAD**2 / 2)

TURNS = 1 / (1 - _GOES_ON)
"""Turns of a conversation, on average."""
SERVICE = _ANSWER * _MEAN / WRITES + _FIRST_PROMPT * _MEAN / TURNS / READS
"""Seconds that a turn takes on an engine, about, on average."""
CONVERSATION = TURNS * SERVICE + (TURNS - 1) * THINKS
"""Seconds that a conversation takes, where nobody waits."""


class Key(NamedTuple):
    """Whoever sends requests, and its share."""

    name: str
    weight: int


class Crowd(NamedTuple):
    """Clients of the same habits. Their keys have as many each.

    ``pause``: seconds between two conversations, on average; 0: these don't think, either.
    """

    clients: int
    keys: Sequence[Key]
    pause: float


def _until_first(crowd: Crowd, chance: random.Random) -> float:
    """Seconds until a client's first turn, as if all had chatted for long: some are amid a
    conversation. What is left of one is as long as a whole one: its end has no memory."""
    if chance.random() < crowd.pause / (crowd.pause + CONVERSATION):
        return chance.expovariate(1 / crowd.pause)
    return chance.uniform(0, THINKS + SERVICE)


def pause_for(load: float, clients: int, slots: int) -> float:
    """The pause between two conversations at which clients use so much of all slots."""
    cycle = clients * TURNS * SERVICE / (load * slots)
    return max(1.0, cycle - CONVERSATION)


class Clients:
    """All clients of a run; ``served`` is what they were given, by the time of its end."""

    def __init__(self, cluster: Cluster, seed: int, *, with_affinity: bool = True) -> None:
        self.served: list[Served] = []
        self.asked = 0
        self._cluster = cluster
        self._seed = seed
        self._with_affinity = with_affinity
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def add(self, crowd: Crowd) -> None:
        for number in range(crowd.clients):
            key = crowd.keys[number % len(crowd.keys)]
            self._tasks.append(asyncio.create_task(self._client(crowd, key, number)))

    async def end(self) -> None:
        """Ask nothing new, and wait for what was asked."""
        self._ending = True
        while len(self.served) < self.asked:  # noqa: ASYNC110
            await asyncio.sleep(1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, crowd: Crowd, key: Key, client: int) -> None:
        chance = random.Random(f"{self._seed} {key.name} {client}")
        if crowd.pause:
            await asyncio.sleep(_until_first(crowd, chance))
        for number in itertools.count():
            if self._ending:
                return
            name = f"{key.name}/{client}/{number}"
            await self._converse(name, key, chance, THINKS if crowd.pause else 0)
            if crowd.pause:
                await asyncio.sleep(chance.expovariate(1 / crowd.pause))

    async def _converse(
        self, conversation: str, key: Key, chance: random.Random, thinks: float
    ) -> None:
        home = affinity(conversation) if self._with_affinity else None
        prompt = _length(chance, _FIRST_PROMPT, _LONGEST_PROMPT)
        for number in range(1, 1000):
            answer = _length(chance, _ANSWER, _LONGEST_ANSWER)
            limit = min(_LONGEST_ANSWER, 256 * math.ceil(answer / 256))
            reserved = prompt + limit
            turn = Turn(conversation, number, key.name, key.weight, home, prompt, answer, reserved)
            self.asked += 1
            gateway = self._cluster.gateways[chance.randrange(len(self._cluster.gateways))]
            self.served.append(await gateway.ask(turn))
            prompt += answer + _length(chance, _MESSAGE, _LONGEST_PROMPT)
            if self._ending or prompt > _LONGEST_PROMPT or chance.random() >= _GOES_ON:
                return
            if thinks:
                await asyncio.sleep(chance.lognormvariate(math.log(thinks / _MEAN), _SPREAD))


def _length(chance: random.Random, median: int, longest: int) -> int:
    return max(1, min(longest, int(chance.lognormvariate(math.log(median), _SPREAD))))


def affinity(conversation: str) -> bytes:
    """What a gateway sends all turns of a conversation by."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"Question {conversation}."},
    ]
    return affinity_of(GenerateRequest(model="m", messages=messages))
